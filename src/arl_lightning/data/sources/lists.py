"""Reads the text files that name a data set's parts, one entry a line."""

from pathlib import Path

from arl_lightning.errors import UserError


def read_lines(path: Path, fix: str) -> list[str]:
    """Return a text file's lines without outer blanks; empty lines and those that begin with `#` are left out.

    Args:
        path: The file, UTF-8 with or without a byte-order mark.
        fix: What to do if it cannot be read, for the message.

    Raises:
        UserError: If the file is missing, is no text or names nothing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        problem = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.strerror)
        raise UserError(f"{path}: {problem}; {fix}") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: names nothing; {fix}")
    return lines
