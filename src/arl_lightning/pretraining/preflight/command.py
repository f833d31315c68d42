"""`arl preflight`: whether a pretraining run can start and go on, as far as that can be told before it takes its GPUs.

One process on one core looks at what the recipe, the shards, the run folder and the environment say. It starts no
process group, takes no GPU and builds no trainer, so that it also runs in a batch script, before `srun`.
"""

import argparse
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.stream.epoch import EpochPlan, Layout
from arl_lightning.data.wording import human_size
from arl_lightning.errors import UserError
from arl_lightning.pretraining.allocation import Allocation, Ranks, asked_for, refuse_other_job
from arl_lightning.pretraining.checkpoint import describe, load_to_resume, refuse_other_networks
from arl_lightning.pretraining.command import checkpoint_to_resume
from arl_lightning.pretraining.preflight.data import Needs, loading_needs, refuse_starving
from arl_lightning.pretraining.preflight.disk import (
    checkpoint_bytes,
    checkpoints_at_once,
    free_bytes,
    present_bytes,
    refuse_full_cache,
)
from arl_lightning.pretraining.recipe import PretrainCLI, build_cli, check_recipe
from arl_lightning.training.quiet import silence_lightning

USAGE = """\
usage: arl preflight --config recipes/pretrain/NAME.yaml [--KEY VALUE ...]

Say before a pretraining run takes its GPUs whether it can start, and what it needs. Takes the keys of `arl pretrain`
(`arl pretrain --help` lists them), and:

  --cores N                        cores of a node; by default Slurm's number, or those of this machine
  --memory GB                      memory of a node; by default Slurm's number, else not judged
  --images_per_second_per_gpu R    what one GPU trains on, measured: refuse workers and cores that feed it less"""


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (looked at, not written)


@dataclass(frozen=True)
class Told:
    """What is given beside the recipe's keys."""

    cores: int | None
    memory: float | None
    images_per_second_per_gpu: float | None


def preflight(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Look at what a run depends on, a line a check, and end with a verdict.

    Args:
        arguments: Those of the command line.
        say: Shows the user a line.

    Raises:
        UserError: At the first thing that would stop the run, or let it starve or hang.
    """
    if {"-h", "--help"} & set(arguments):
        return say(USAGE)
    silence_lightning()
    told, words = _told(arguments)
    own = Allocation.found(os.environ, told.cores, told.memory)
    cli = build_cli(words, with_trainer=False)
    check_recipe(cli)
    trainer = cli.config["trainer"]
    size = checkpoint_bytes(cli.model, str(trainer["precision"]))
    _line(say, "recipe", _recipe(cli))
    ranks = asked_for(trainer["accelerator"], trainer["devices"], trainer["num_nodes"], own.gpus)
    refuse_other_job(ranks, own)
    _line(say, "ranks", f"{ranks}{_started_otherwise(ranks, own)}")
    _line(say, "here", str(own))
    if ranks.on_gpus and own.gpus is None:
        _line(say, "GPUs", "not known here, not judged")
    _check_shards(cli, ranks, own, told, say)
    done = _check_checkpoint(cli, say)
    if done >= trainer["max_steps"]:
        return _line(
            say, "verdict", f"all {trainer['max_steps']} steps are done; another --run.folder starts a new run"
        )
    _check_disk(cli, size, say)
    return _line(say, "verdict", "nothing is in the way of this run")


def _line(say: Callable[[str], None], name: str, text: str) -> None:
    say(f"{name:16}{text}")


def _told(arguments: Sequence[str]) -> tuple[Told, list[str]]:
    """Take this command's own options from the recipe's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--cores", type=int)
    parser.add_argument("--memory", type=float)
    parser.add_argument("--images_per_second_per_gpu", type=float)
    try:
        known, words = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; `arl preflight --help` lists the options") from error
    for name, value in vars(known).items():
        if value is not None and value <= 0:
            raise UserError(f"--{name} {value:g}: must be above 0")
    return Told(**vars(known)), words


def _recipe(cli: PretrainCLI) -> str:
    trainer, encoder = cli.config["trainer"], cli.model.encoder_options
    return (
        f"{encoder.name} at {encoder.image_size} px, {trainer['max_steps']:,} steps, strategy {trainer['strategy']},"
        f" precision {trainer['precision'] or '32-true'}"
    )


def _started_otherwise(ranks: Ranks, own: Allocation) -> str:
    if own.tasks_per_node != 1 or ranks.per_node == 1:
        return ""
    return "; srun would start 1 task a node: start them by torchrun, or on one node by `arl pretrain` without srun"


def _check_shards(cli: PretrainCLI, ranks: Ranks, own: Allocation, told: Told, say: Callable[[str], None]) -> None:
    data, corpus = cli.datamodule, cli.datamodule.corpus
    try:
        for anatomy in corpus.anatomies:
            data.vocabulary.index(anatomy)
    except UserError as error:
        raise UserError(f"data.shards: {error}; or add it to model.anatomies") from error
    files = "all there with their sizes; every anatomy is known"
    _line(say, "shards", f"{corpus.num_samples:,} images in {len(corpus.shards):,} shards, {files}")
    needs = loading_needs(data, ranks, own.memory_gb)
    _line(say, "loading", needs.sharing)
    _line(say, "memory", needs.memory_said(own.memory_gb))
    _check_shared_memory(needs, ranks, own)
    if data.val_corpus is not None:
        plan = EpochPlan(data.val_corpus.shards, 0, Layout(data.batch_size, ranks.world_size, 0, data.open_shards))
        used = min(data.num_val_batches, plan.whole)
        _line(say, "held out", f"{data.val_corpus.num_samples:,} images, of which each rank uses {used} batches")
    if data.cache_folder is not None and _runs_here(ranks, own):
        shards = corpus.shards + (data.val_corpus.shards if data.val_corpus else ())
        _line(say, "cache", refuse_full_cache(data.cache_folder, shards))
    _line(say, "feeding", refuse_starving(data, ranks, own.cores, told.images_per_second_per_gpu))


def _runs_here(ranks: Ranks, own: Allocation) -> bool:
    """Whether this is a node of the run, not one that people log in to."""
    return own.job is not None or ranks.nodes == 1


def _check_shared_memory(needs: Needs, ranks: Ranks, own: Allocation) -> None:
    """Workers hand batches over in /dev/shm; where it is full they die of a bus error."""
    if not _runs_here(ranks, own) or not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needs.memory.shared > free:
        raise UserError(
            f"{SHARED_MEMORY}: {human_size(free)} are free and workers need {human_size(needs.memory.shared)}; give the"
            " container more (--shm-size), or lower data.num_workers, data.prefetch_factor or data.batch_size"
        )


def _check_checkpoint(cli: PretrainCLI, say: Callable[[str], None]) -> int:
    """See that the run begins, or can go on; returns the steps that are done."""
    run = cli.run
    path = checkpoint_to_resume(cli.config["ckpt_path"], run)
    if path is None:
        _line(say, "begins", f"at step 0 in {run.path}")
        return 0
    saved, data = load_to_resume(path), type(cli.datamodule).__qualname__
    try:
        if data not in saved:
            raise UserError("does not say how far it is in the data, so it is of another version; start a new run")
        refuse_other_networks(saved["arl"]["recipe"], describe(cli.model.recipe)["recipe"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another layout: the run itself says what that means
            cli.datamodule.load_state_dict(saved[data])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    steps = int(saved["global_step"])
    _line(say, "goes on", f"from {path}, step {steps:,} of {cli.config['trainer']['max_steps']:,}; it fits this recipe")
    return steps


def _check_disk(cli: PretrainCLI, size: int, say: Callable[[str], None]) -> None:
    """See that the run folder can be written and holds the checkpoints that are there at one time."""
    run, max_steps = cli.run, cli.config["trainer"]["max_steps"]
    free = free_bytes(run.path, "run.folder")
    number = checkpoints_at_once(run.keep, run.checkpoint_every_n_steps, max_steps)
    needed = max(number * size - present_bytes(run.checkpoints), size)
    said = f"checkpoints of {human_size(size)}, {number} at one time: {human_size(needed)} more"
    if needed > free:
        raise UserError(
            f"run.folder {run.folder}: {human_size(free)} are free; {said}; make room, lower run.keep, or choose"
            " another --run.folder"
        )
    _line(say, "disk", f"{said}, {human_size(free)} are free")
