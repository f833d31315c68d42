"""`arl pretrain`: from a recipe to a run folder."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from arl_lightning.errors import UserError
from arl_lightning.pretraining.checkpoint import load_to_resume
from arl_lightning.pretraining.recipe import PretrainCLI, build_cli, check_recipe
from arl_lightning.pretraining.reports import end_report, start_report
from arl_lightning.pretraining.run import LAST, Run
from arl_lightning.training.checkpoints import resume_from
from arl_lightning.training.quiet import silence_lightning
from arl_lightning.training.run_lock import own
from arl_lightning.training.start_report import StartReport

DEVICES = ("cpu", "cuda")


def pretrain(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Train as the recipe says, or go on from a checkpoint.

    Args:
        arguments: Those of the command line.
        say: Shows the user lines on the first rank.

    Raises:
        UserError: If the recipe, the shards or the checkpoint cannot be used.
    """
    silence_lightning()
    try:
        _run(build_cli(arguments), say)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error


def _run(cli: PretrainCLI, say: Callable[[str], None]) -> None:
    run, trainer = cli.run, cli.trainer
    check_recipe(cli)
    if trainer.strategy.root_device.type not in DEVICES:
        raise UserError(f"trainer.accelerator: use one of {', '.join(DEVICES)}; others lack operations or float64")
    if trainer.is_global_zero:
        own(run.path)
    former = checkpoint_to_resume(cli.config["ckpt_path"], run)
    if former is not None and load_to_resume(former)["global_step"] >= trainer.max_steps:
        if trainer.is_global_zero:
            say(f"all {trainer.max_steps} steps are done; another --run.folder starts a new run\n{end_report(run)}")
        return
    report = StartReport(say, partial(start_report, cli, former))
    trainer.callbacks.insert(1, report)  # type: ignore[attr-defined]  # behind the watchdog
    # Not before: a run that is refused must leave the recipe of the one that is there.
    recipe = LambdaCallback(on_train_start=lambda *_: _save_recipe(cli, run))
    trainer.callbacks.insert(2, recipe)  # type: ignore[attr-defined]
    trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=former, weights_only=True)
    if trainer.is_global_zero:
        say(end_report(run))


def checkpoint_to_resume(ckpt_path: str | None, run: Run) -> Path | None:
    """Return what `--ckpt_path` means; None where a run begins.

    Raises:
        UserError: If the folder holds a run and nothing says to go on with it, or none of its checkpoints is whole.
    """
    if ckpt_path not in (None, LAST):
        return _of_this_run(Path(ckpt_path), run)
    last = resume_from(run.checkpoints)  # a job script can always ask for it, the first time too
    if ckpt_path is None and last is not None:
        raise _holds_a_run(last)
    return last


def _of_this_run(path: Path, run: Run) -> Path:
    """Return a path unless it is another run's and this run's folder holds one, whose checkpoints would be removed."""
    folder = run.checkpoints.resolve()
    if folder not in (path.parent.resolve(), path.resolve().parent):
        present = resume_from(run.checkpoints) or next(run.checkpoints.glob("step-*.ckpt"), None)
        if present is not None:
            raise _holds_a_run(present)
    return path


def _holds_a_run(path: Path) -> UserError:
    return UserError(f"{path}: this folder holds a run; go on with --ckpt_path last, or choose another --run.folder")


def _save_recipe(cli: PretrainCLI, run: Run) -> None:
    if not cli.trainer.is_global_zero:
        return
    run.path.mkdir(parents=True, exist_ok=True)
    temporary = run.path / "recipe.yaml.tmp"
    temporary.write_text(cli.parser.dump(cli.config, skip_none=False), encoding="utf-8")
    temporary.replace(run.path / "recipe.yaml")
