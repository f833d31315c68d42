"""What a run says when it starts and when it is done."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy

from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.pretraining.recipe import PretrainCLI, recipe_sha256
from arl_lightning.pretraining.run import Run
from arl_lightning.pretraining.schedules import scaled_learning_rate
from arl_lightning.training.setting import LABEL


def start_report(cli: PretrainCLI, former: Path | None) -> list[str]:
    """Say what is about to be trained, on what, at which rates and for how long.

    Args:
        cli: Holds model, data and trainer, whose ranks know each other.
        former: The checkpoint that the run goes on from.
    """
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    optimization, corpus = model.optimization, data.corpus
    batch = model.global_batch_size
    student = scaled_learning_rate(optimization.base_lr, batch)
    discriminator = scaled_learning_rate(optimization.discriminator_base_lr, batch)
    anatomies = ", ".join(f"{name} {count}" for name, count in corpus.anatomies.items())
    readers = trainer.world_size * max(data.num_workers, 1)
    said = {
        "model": f"{model.encoder_options.name} at {model.encoder_options.image_size} px, conditioning"
        f" {model.encoder_options.conditioning}",
        "recipe": f"sha256 {recipe_sha256(cli)[:12]}, seed {data.seed}",
        "corpus": f"{corpus.num_samples} images in {len(corpus.shards)} shards, sha256 {corpus.sha256[:12]}"
        f" ({anatomies})",
        "shards": f"{len(corpus.shards) / readers:.3g} for each of {readers} readers ({trainer.world_size} ranks x"
        f" {max(data.num_workers, 1)})",
        "global batch": f"{model.batch_size} images x {trainer.world_size} ranks x {optimization.accumulate_batches}"
        f" accumulated = {batch}",
        "learning rate": f"{student:.3g} scaled from {optimization.base_lr:.3g} at 256 (discriminator"
        f" {discriminator:.3g})",
        "length": f"{trainer.max_steps} steps, {trainer.max_steps * batch / corpus.num_samples:.1f} epochs of"
        f" {data.batches_per_epoch / optimization.accumulate_batches:.6g} steps",
        "training": f"{_strategy(trainer)}, precision {trainer.precision}",
    }
    if former is not None:
        said["resuming"] = str(former)
    return [label.ljust(LABEL) + text for label, text in said.items()]


def _strategy(trainer: pl.Trainer) -> str:
    strategy = trainer.strategy
    if trainer.world_size == 1:
        return "one process"
    if isinstance(strategy, FSDP2Strategy):
        replicated = f" x {strategy.replicas} replicas" if strategy.replicas > 1 else ""
        return f"FSDP2, {trainer.world_size // strategy.replicas} shards{replicated}"
    return "DDP" if isinstance(strategy, DDPStrategy) else type(strategy).__name__


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
