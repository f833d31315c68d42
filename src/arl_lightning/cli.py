"""The `arl` command: entry points, nothing else."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from arl_lightning import __version__
from arl_lightning.errors import UserError


class Command(NamedTuple):
    """A command's function, imported when it is called, and what it does.

    Attributes:
        module: Where the function is.
        function: Its name; its typed signature is the command line, unless it `parses`.
        summary: For `arl --help`.
        parses: Whether the function takes the words of the command line themselves.
    """

    module: str
    function: str
    summary: str
    parses: bool = False

    def run(self, program: str, arguments: Sequence[str]) -> None:
        """Call the function and print what it returns."""
        function = getattr(import_module(f"arl_lightning.{self.module}"), self.function)
        if self.parses:
            said = function(arguments)
        else:
            from arl_lightning.arguments import call

            said = call(function, program, arguments)
        if said is not None:
            print(said)


COMMANDS: dict[tuple[str, ...], Command] = {
    ("pretrain",): Command("pretraining.command", "pretrain", "pretrain A-ViT on packed shards", parses=True),
    ("shards", "pack"): Command(
        "data.packing.command", "shards_pack", "pack data sets, DICOM archives or folders into shards", parses=True
    ),
    ("shards", "verify"): Command("data.shards.verify", "verify", "find what is wrong with packed shards, by name"),
    ("shards", "stats"): Command("data.shards.stats", "stats", "count what shards hold, as a table and a figure"),
    ("shards", "show"): Command("data.shards.show", "show", "draw a shard's images on one sheet"),
    ("shards", "merge"): Command("data.packing.merge", "merge", "merge packed corpora into one, shuffled anew"),
    ("shards", "preflight"): Command(
        "data.stream.preflight", "preflight", "say whether a cluster would starve on a corpus, before it does"
    ),
    ("shards", "bench"): Command("data.stream.bench", "bench", "time the stream, name the best workers and prefetch"),
    ("bench", "model"): Command("models.bench", "bench", "count and time A-ViT beside the plain ViT"),
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
                command.run(" ".join(["arl", *words]), given[len(words) :])
            except (UserError, ArgumentError) as error:
                print(f"arl: error: {_one_line(error)}", file=sys.stderr)
                return 2
            return 0
    return _usage(given)


def _usage(given: Sequence[str]) -> int:
    asked = not given or given[0] in ("-h", "--help")
    lines = ["usage: arl COMMAND [OPTION ...]", "", "Anatomy-aware pretraining on medical ultrasound.", ""]
    for words, command in COMMANDS.items():
        lines.append(f"  {' '.join(words):18}{command.summary}")
    lines += ["", "`arl COMMAND --help` lists a command's options."]
    if not asked:
        lines = [f"arl: error: no command '{' '.join(given[:2])}'; `arl --help` lists them"]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
