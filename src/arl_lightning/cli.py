"""The `arl` command: entry points, nothing else."""

import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

from arl_lightning import __version__
from arl_lightning.distributed import failures, signals
from arl_lightning.errors import UserError

MISTAKE = 2
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE


class Command(NamedTuple):
    """A command's function, imported when it is called, and what it does.

    Attributes:
        module: Where the function is.
        function: Its name; its typed signature is the command line, unless it `parses`.
        summary: For `arl --help`.
        parses: Whether the function takes the words of the command line themselves.
        resumes: Whether, stopped and called again, it goes on where it stopped.
        trains: Whether Lightning answers to signals while it runs.
        stops: Whether SIGUSR1 and SIGTERM only ask it to save and stop.
    """

    module: str
    function: str
    summary: str
    parses: bool = False
    resumes: bool = False
    trains: bool = False
    stops: bool = False

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
    ("pretrain",): Command(
        "pretraining.command", "pretrain", "pretrain A-ViT on packed shards", parses=True, trains=True, stops=True
    ),
    ("preflight",): Command(
        "pretraining.preflight.command",
        "preflight",
        "say whether a pretraining run can start, before it does",
        parses=True,
    ),
    ("ranks",): Command(
        "data.tuning.ranks", "ranks", "say what each rank of a job is and reads, in place of training", parses=True
    ),
    ("export",): Command("pretraining.export", "export", "write a pretrained encoder as safetensors that stand alone"),
    ("finetune",): Command("downstream.command", "finetune", "train an encoder on a task", parses=True, trains=True),
    ("probe",): Command(
        "downstream.command", "probe", "train a linear classifier on features", parses=True, trains=True
    ),
    ("knn",): Command("downstream.command", "knn", "classify by the nearest features", parses=True, trains=True),
    ("segment",): Command("downstream.command", "segment", "train UPerNet on a task's masks", parses=True, trains=True),
    ("compare",): Command("evaluation.compare", "compare", "test in pairs whether runs differ, and by how much"),
    ("summary",): Command("evaluation.summary_report", "show_summary", "show what seeds, folds and label shares gave"),
    ("report",): Command("evaluation.report", "report", "gather every finished run below folders in one table"),
    ("predict",): Command("downstream.predict", "predict", "say what a trained run makes of your images"),
    ("tasks", "check"): Command("data.tasks.check", "tasks_check", "find what is wrong with a task's files, by name"),
    ("tasks", "list"): Command(
        "downstream.training_list", "training_list", "list a task's training files, for packing", parses=True
    ),
    ("shards", "pack"): Command(
        "data.packing.command",
        "shards_pack",
        "pack data sets, DICOM archives or folders into shards",
        parses=True,
        resumes=True,
    ),
    ("shards", "verify"): Command("data.shards.verify", "verify", "find what is wrong with packed shards, by name"),
    ("shards", "stats"): Command("data.shards.stats", "stats", "count what shards hold, as a table and a figure"),
    ("shards", "show"): Command("data.shards.show", "show", "draw a shard's images on one sheet"),
    ("shards", "merge"): Command(
        "data.packing.merge", "merge", "merge packed corpora into one, shuffled anew", resumes=True
    ),
    ("shards", "preflight"): Command(
        "data.tuning.preflight", "preflight", "say whether a cluster would starve on a corpus, before it does"
    ),
    ("shards", "bench"): Command("data.tuning.bench", "bench", "time the stream, name the best workers and prefetch"),
    ("bench", "memory"): Command(
        "pretraining.memory.command", "memory", "work out a training step's memory for each strategy"
    ),
    ("bench", "model"): Command("models.bench", "bench", "count and time A-ViT beside the plain ViT"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its status.

    What a user can mend becomes one line on stderr and status 2. Ctrl-C, SIGTERM and a reader of the output that goes
    away end a command without a traceback. Called without arguments it is the program itself: signals are its own, and
    its end where it is one of several ranks.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be Unicode
    try:
        try:
            status = _dispatch(list(sys.argv[1:] if arguments is None else arguments), arguments is None)
            if arguments is None and failures.among_ranks():
                failures.leave_at_exit(status)
            return status
        finally:  # --help ends with SystemExit
            print(end="", flush=True)
    except OSError as error:
        return PIPE_CLOSED if _reader_is_gone() else _refuse(_reason(error))


def _dispatch(given: list[str], is_program: bool) -> int:
    if given[:1] == ["--version"]:
        print(__version__)
        return 0
    for words, command in COMMANDS.items():
        if tuple(given[: len(words)]) == words:
            return _run(command, " ".join(["arl", *words]), given[len(words) :], is_program)
    return _usage(given)


def _run(command: Command, program: str, arguments: Sequence[str], is_program: bool) -> int:
    if is_program:  # before anything else is imported: that takes seconds, and SIGUSR1 would kill
        _hold_signals(command)
    from jsonargparse import ArgumentError

    try:
        with _sigterm_as_interrupt(command):
            command.run(program, arguments)
    except signals.Stopped as stop:
        return _stopped(stop)
    except (UserError, ArgumentError) as error:
        if is_program and failures.among_ranks():
            failures.leave(failures.report(error if isinstance(error, UserError) else UserError(str(error))))
        return _refuse(error)
    except Exception as error:
        if is_program and failures.among_ranks():
            failures.leave(failures.report(error))
        raise
    except KeyboardInterrupt:
        if command.trains:
            raise
        then = ", it goes on where it stopped" if command.resumes else ""
        print(f"arl: stopped; run the same command again{then}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _hold_signals(command: Command) -> None:
    if command.stops:
        signals.hold()
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch spends 30 lines on each other rank that is gone
    else:
        signals.let_through()


def _stopped(stop: signals.Stopped) -> int:
    """Speak on the first rank; a status other than 0 of another's would let srun end the first."""
    if failures.rank() > 0:
        return 0
    print(f"arl: {stop}", file=sys.stderr)
    return stop.status


@contextmanager
def _sigterm_as_interrupt(command: Command) -> Iterator[None]:
    """Let SIGTERM unwind a command as Ctrl-C does; a handler of somebody else's stays."""
    main_thread = threading.current_thread() is threading.main_thread()
    if command.trains or not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _reader_is_gone() -> bool:
    """Return whether nobody reads stdout or stderr any more; what is still to be written there is dropped.

    The interpreter would try once more at its end, and complain.
    """
    gone = False
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            watch = select.poll()
            watch.register(stream.fileno(), 0)
            gone = gone or bool(watch.poll(0))  # asked for nothing, it tells of a reader that has gone
            stream.flush()
        except io.UnsupportedOperation:  # no file of the system's
            continue
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone


def _reason(error: OSError) -> str:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names)}: {error.strerror}" if names else str(error) or type(error).__name__


def _usage(given: Sequence[str]) -> int:
    asked = not given or given[0] in ("-h", "--help")
    lines = ["usage: arl COMMAND [OPTION ...]", "", "Anatomy-aware pretraining on medical ultrasound.", ""]
    for words, command in COMMANDS.items():
        lines.append(f"  {' '.join(words):18}{command.summary}")
    lines += ["", "`arl COMMAND --help` lists a command's options."]
    if not asked:
        return _refuse(f"no command '{' '.join(given[:2])}'; `arl --help` lists them")
    print("\n".join(lines))
    return 0


def _refuse(reason: object) -> int:
    print(f"arl: error: {' '.join(str(reason).split())}", file=sys.stderr)
    if isinstance(reason, UserError) and reason.advice:
        print(f"     {reason.advice}", file=sys.stderr)
    return MISTAKE


if __name__ == "__main__":
    sys.exit(main())
