"""What a run says when it starts and when it is done."""

from pathlib import Path

import lightning.pytorch as pl

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.run import Run
from arl_lightning.pretraining.schedules import scaled_learning_rate


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
