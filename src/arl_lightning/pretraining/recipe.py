"""From the words of the command line to a run's parts: every key of a recipe, typed."""

import hashlib
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.distributed.options import Distributed
from arl_lightning.errors import UserError
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.build import build_encoder, check_masking
from arl_lightning.pretraining.run import Run
from arl_lightning.pretraining.trainer import check_strategy, full_precision_name, trainer_arguments

ACCELERATORS = ("auto", "cpu", "cuda", "gpu")
PRECISIONS = ("32-true", "bf16-mixed", "64-true")
# Keys that say where files lie. The corpus has a hash of its own.
PLACES = (
    "config",
    "ckpt_path",
    "run.folder",
    "trainer.default_root_dir",
    "data.shards",
    "data.val_shards",
    "data.cache_folder",
)


class PretrainCLI(LightningCLI):
    """Adds the run folder, resuming, and the links between model and data to Lightning's command line.

    Args:
        with_trainer: False leaves the trainer out, which would look for its devices and its cluster.
    """

    def __init__(self, *args: Any, with_trainer: bool = True, **kwargs: Any) -> None:
        self.with_trainer = with_trainer
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our keys; a linked key is set in one place only."""
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to go on from: a path, or 'last'."
        )
        parser.add_class_arguments(Run, "run")
        parser.add_class_arguments(Distributed, "distributed")
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

    @property
    def distributed(self) -> Distributed:
        """The recipe's `distributed` group."""
        return Distributed(**self.config["distributed"].as_dict())

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Give the trainer our callbacks and a logger inside the run folder."""
        if not self.with_trainer:
            return None
        kwargs |= trainer_arguments(self.run, self.distributed, self._get(self.config_init, "trainer"))
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


def _long(argument: str) -> str:
    """Write `--keep`, the one short key, out."""
    return f"--run.{argument[2:]}" if re.fullmatch(r"--keep(=.*)?", argument) else argument


def build_cli(arguments: Sequence[str], with_trainer: bool = True) -> PretrainCLI:
    """Parse the arguments and build module, DataModule and, unless told otherwise, the trainer from them.

    Raises:
        UserError: If a key or a value cannot be used.
    """
    return PretrainCLI(
        ARL,
        PretrainingDataModule,
        args=[_long(argument) for argument in arguments],
        with_trainer=with_trainer,
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


def recipe_sha256(cli: PretrainCLI) -> str:
    """Return a hash of all keys but those that say where files lie: equal ones describe the same training."""
    config = cli.config.clone()
    for key in PLACES:
        config.pop(key, None)
    return hashlib.sha256(cli.parser.dump(config, skip_none=False, skip_validation=True).encode()).hexdigest()


def check_recipe(cli: PretrainCLI) -> None:
    """Refuse what would fail late, or train wrongly without a word; needs no devices.

    Raises:
        UserError: If keys cannot be used together, or at all.
    """
    trainer, model, data = cli.config["trainer"], cli.model, cli.datamodule
    if trainer["max_steps"] < 1:
        raise UserError("trainer.max_steps: must be set, as the stream of images has no end")
    if trainer["accelerator"] not in ACCELERATORS:
        raise UserError(f"trainer.accelerator: use one of {', '.join(ACCELERATORS)}; others lack operations or float64")
    if full_precision_name(trainer["precision"]) not in PRECISIONS:
        raise UserError(
            f"trainer.precision: {trainer['precision']} is not supported; use one of {', '.join(PRECISIONS)}"
        )
    check_strategy(cli.config_init["trainer"], cli.distributed)
    with torch.device("meta"):
        encoder = build_encoder(model.encoder_options, model.vocabulary.num_anatomies)
    if model.masks:
        check_masking(model.masking, encoder.patch_embed.num_patches)
    patch_size = encoder.patch_size
    crops = data.transform.multi_crop
    if model.self_distillation.enabled and crops.num_global + crops.num_local < 2:
        raise UserError("data.num_global_views and data.num_local_views: self-distillation needs two views in all")
    if crops.num_local and crops.local_size % patch_size:
        raise UserError(f"data.local_size: {crops.local_size} is not divisible by the patch size {patch_size}")
