"""How numbers, sizes and names are written for people."""


def count(number: int, noun: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def human_size(num_bytes: float) -> str:
    """Return a number of bytes in the decimal unit that suits it."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} kB"


def one_line(name: object) -> str:
    r"""Return a name, such as a path, so that it breaks no line and can be written anywhere: `\n` for a line's end."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(name)
    )
