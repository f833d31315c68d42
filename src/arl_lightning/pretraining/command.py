"""`arl pretrain`: from a recipe to a run folder."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.errors import UserError
from arl_lightning.pretraining import callbacks, checkpoint
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.build import build_encoder
from arl_lightning.pretraining.schedules import scaled_learning_rate
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.progress import Progress, Throughput
from arl_lightning.training.quiet import silence_lightning

LAST = "last"
DEVICES = ("cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "64-true")


@dataclass(frozen=True)
class Run:
    """Where a run leaves what it makes, and how often.

    Args:
        folder: Holds checkpoints/, tensorboard/, pictures/ and recipe.yaml.
        checkpoint_every_n_steps: Steps between two checkpoints; each replaces checkpoints/last.ckpt.
        keep_every_checkpoint: Also keep each checkpoint under its step.
        pictures_every_n_steps: Steps between two pictures of reconstructions.
        watch_every_n_steps: Steps between two looks for collapse, and for shards and images that cannot be used.
    """

    folder: str = "runs/pretrain"
    checkpoint_every_n_steps: int = 1000
    keep_every_checkpoint: bool = False
    pictures_every_n_steps: int = 500
    watch_every_n_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("checkpoint_every_n_steps", "pictures_every_n_steps", "watch_every_n_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name}: {getattr(self, name)} must be at least 1")

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / f"{LAST}.ckpt"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.path / "pictures"


class PretrainCLI(LightningCLI):
    """Adds the run folder, resuming, and the links between model and data to Lightning's command line."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our keys; a linked key is set in one place only."""
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to go on from: a path, or 'last'."
        )
        parser.add_class_arguments(Run, "run")
        parser.link_arguments("run.folder", "trainer.default_root_dir")
        parser.link_arguments("model.encoder.image_size", "data.global_size")
        parser.link_arguments("model.encoder.in_chans", "data.in_chans")
        parser.link_arguments("model.anatomies", "data.anatomies")
        parser.link_arguments("data.batch_size", "model.batch_size")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and name the key that was probably meant where one is unknown.

        Raises:
            UserError: If a key or a value cannot be used.
        """
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise UserError(f"{error}; {_advice(str(error), parser)}") from error

    @property
    def run(self) -> Run:
        """The recipe's `run` group."""
        return Run(**self.config["run"].as_dict())

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Give the trainer our callbacks and a logger inside the run folder."""
        run = self.run
        kwargs["callbacks"] = [*_listed(self._get(self.config_init, "trainer.callbacks")), *_callbacks(run)]
        kwargs["plugins"] = [*_listed(self._get(self.config_init, "trainer.plugins")), AtomicCheckpointIO()]
        kwargs["logger"] = TensorBoardLogger(run.path, name="", version="tensorboard")
        return super().instantiate_trainer(**kwargs)


def _advice(message: str, parser: LightningArgumentParser) -> str:
    unknown = re.search(
        r"unrecognized arguments: --([\w.]+)|(?:Group|Key) '([\w.]*)' does not accept option '([\w.]+)'", message
    )
    if unknown is None:
        return "`arl pretrain --help` lists the keys and their types"
    argument, group, option = unknown.groups()
    key = argument or f"{group}.{option}"
    known = [action.dest for action in parser._actions]
    close = get_close_matches(key, known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else "`arl pretrain --help` lists the keys"


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _callbacks(run: Run) -> list[pl.Callback]:
    saving = ModelCheckpoint(
        dirpath=run.checkpoints,
        filename="{step:07d}" if run.keep_every_checkpoint else LAST,
        auto_insert_metric_name=False,
        every_n_train_steps=run.checkpoint_every_n_steps,
        save_top_k=-1 if run.keep_every_checkpoint else 1,
        save_last=run.keep_every_checkpoint,
        enable_version_counter=False,
    )
    return [
        callbacks.CollapseMonitor(run.watch_every_n_steps),
        callbacks.ReconstructionPictures(run.pictures, run.pictures_every_n_steps),
        Progress(),
        callbacks.NonFiniteGuard(run.checkpoints),
        callbacks.DataGuard(run.last_checkpoint, run.watch_every_n_steps),
        callbacks.FinalCheckpoint(run.last_checkpoint),
        Throughput(),
        saving,
    ]


def build_cli(arguments: Sequence[str]) -> PretrainCLI:
    """Parse the arguments and build trainer, module and DataModule from them.

    Raises:
        UserError: If a key or a value cannot be used.
    """
    return PretrainCLI(
        ARL,
        PretrainingDataModule,
        args=list(arguments),
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={
            "accelerator": "cuda" if torch.cuda.is_available() else "cpu",
            "enable_model_summary": False,
            "use_distributed_sampler": False,  # the stream is split by rank already, and so are held-out batches
            "val_check_interval": 1000,  # the stream has no epochs to validate after
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
        },
        parser_kwargs={
            "prog": "arl pretrain",
            "usage": "arl pretrain --config recipes/pretrain/NAME.yaml [--KEY VALUE ...]",
            "description": "Pretrain A-ViT on packed shards, as a recipe says.",
            "exit_on_error": False,
        },
    )


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
    _check(cli.model, cli.datamodule, trainer)
    resume_from = _checkpoint_to_resume(cli.config["ckpt_path"], run)
    if resume_from is not None and checkpoint.load(resume_from)["global_step"] >= trainer.max_steps:
        if trainer.is_global_zero:
            say(f"all {trainer.max_steps} steps are done; another --run.folder starts a new run\n{end_report(run)}")
        return
    if trainer.is_global_zero:
        say(start_report(cli.model, cli.datamodule, trainer, resume_from))
        _save_recipe(cli, run)
    trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resume_from, weights_only=True)
    if trainer.is_global_zero:
        say(end_report(run))


def _check(model: ARL, data: PretrainingDataModule, trainer: pl.Trainer) -> None:
    """Refuse what would fail late, or train wrongly without a word."""
    if trainer.max_steps < 1:
        raise UserError("trainer.max_steps: must be set, as the stream of images has no end")
    if trainer.strategy.root_device.type not in DEVICES:
        raise UserError(f"trainer.accelerator: use one of {', '.join(DEVICES)}; others lack operations or float64")
    if trainer.precision not in PRECISIONS:
        raise UserError(f"trainer.precision: {trainer.precision} is not supported; use one of {', '.join(PRECISIONS)}")
    if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise UserError("trainer.strategy: networks cannot be sharded yet, ranks would drift apart; use ddp")
    with torch.device("meta"):
        patch_size = build_encoder(model.encoder_options, model.vocabulary.num_anatomies).patch_size
    crops = data.transform.multi_crop
    if model.self_distillation.enabled and crops.num_global + crops.num_local < 2:
        raise UserError("data.num_global_views and data.num_local_views: self-distillation needs two views in all")
    if crops.num_local and crops.local_size % patch_size:
        raise UserError(f"data.local_size: {crops.local_size} is not divisible by the patch size {patch_size}")


def _checkpoint_to_resume(ckpt_path: str | None, run: Run) -> Path | None:
    last = run.last_checkpoint
    if ckpt_path is None and last.exists():
        raise UserError(f"{last}: this folder holds a run; go on with --ckpt_path last, or choose another --run.folder")
    if ckpt_path is None or (ckpt_path == LAST and not last.exists()):
        return None  # a job script can always ask for the last one, the first time too
    return last if ckpt_path == LAST else Path(ckpt_path)


def _save_recipe(cli: PretrainCLI, run: Run) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    temporary = run.path / "recipe.yaml.tmp"
    temporary.write_text(cli.parser.dump(cli.config, skip_none=False), encoding="utf-8")
    temporary.replace(run.path / "recipe.yaml")


def start_report(model: ARL, data: PretrainingDataModule, trainer: pl.Trainer, resume_from: Path | None) -> str:
    """Say what is about to be trained, on what, and at which learning rate."""
    optimization = model.optimization
    batch = model.batch_size * trainer.world_size * optimization.accumulate_batches
    student = scaled_learning_rate(optimization.base_lr, batch)
    discriminator = scaled_learning_rate(optimization.discriminator_base_lr, batch)
    anatomies = ", ".join(f"{name} {count}" for name, count in data.corpus.anatomies.items())
    lines = [
        f"model           {model.encoder_options.name} at {model.encoder_options.image_size} px,"
        f" conditioning {model.encoder_options.conditioning}",
        f"corpus          {data.corpus.num_samples} images in {len(data.corpus.shards)} shards ({anatomies})",
        f"global batch    {model.batch_size} images x {trainer.world_size} ranks"
        f" x {optimization.accumulate_batches} accumulated = {batch}",
        f"learning rate   {student:.3g} scaled from {optimization.base_lr:.3g} at 256"
        f" (discriminator {discriminator:.3g})",
        f"length          {trainer.max_steps} steps,"
        f" {trainer.max_steps * batch / data.corpus.num_samples:.1f} epochs of the corpus",
        f"device          {trainer.strategy.root_device}, precision {trainer.precision}",
    ]
    if resume_from is not None:
        lines.append(f"resuming        {resume_from}")
    return "\n".join(lines)


def end_report(run: Run) -> str:
    """Say where everything lies and what to do next."""
    pictures = sorted(run.pictures.glob("*.png"))
    return "\n".join(
        [
            f"checkpoint      {run.last_checkpoint}",
            f"TensorBoard     {run.path / 'tensorboard'}",
            f"pictures        {pictures[-1] if pictures else 'none: reconstruction is off'}",
            f"next            tensorboard --logdir {run.path}",
            "                arl shards pack --source folder --root DIR --anatomy NAME --out SHARDS",
            "                arl pretrain --config recipes/pretrain/avit_tiny_cpu.yaml --data.shards SHARDS",
        ]
    )
