"""The `arl` command: entry points, nothing else."""

import sys
from collections.abc import Callable, Sequence

from arl_lightning import __version__
from arl_lightning.errors import UserError


def pretrain(arguments: Sequence[str]) -> None:
    """Pretrain A-ViT on packed shards, as a recipe says."""
    from arl_lightning.pretraining.command import pretrain

    pretrain(arguments, print)


def shards_pack(arguments: Sequence[str]) -> None:
    """Pack data sets, DICOM archives or folders into WebDataset shards."""
    from arl_lightning.data.shards.command import shards_pack

    print(shards_pack(arguments))


def bench_model(arguments: Sequence[str]) -> None:
    """Count A-ViT's parameters and operations and time it beside the plain ViT."""
    from arl_lightning.arguments import call
    from arl_lightning.models.bench import bench

    print(call(bench, "arl bench model", arguments))


COMMANDS: dict[tuple[str, ...], Callable[[Sequence[str]], None]] = {
    ("pretrain",): pretrain,
    ("shards", "pack"): shards_pack,
    ("bench", "model"): bench_model,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake becomes one line on stderr and status 2."""
    from jsonargparse import ArgumentError

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        print(__version__)
        return 0
    for words, command in COMMANDS.items():
        if tuple(given[: len(words)]) == words:
            try:
                command(given[len(words) :])
            except (UserError, ArgumentError) as error:
                print(f"arl: error: {_one_line(error)}", file=sys.stderr)
                return 2
            return 0
    return _usage(given)


def _usage(given: Sequence[str]) -> int:
    asked = not given or given[0] in ("-h", "--help")
    lines = ["usage: arl COMMAND [OPTION ...]", "", "Anatomy-aware pretraining on medical ultrasound.", ""]
    for words, command in COMMANDS.items():
        lines.append(f"  {' '.join(words):14}{(command.__doc__ or '').splitlines()[0]}")
    lines += ["", "`arl COMMAND --help` lists a command's options."]
    if not asked:
        lines = [f"arl: error: no command '{' '.join(given[:2])}'; `arl --help` lists them"]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
