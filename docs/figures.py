"""Draw the figures of docs/real_run.md from a finished run.

python docs/figures.py runs/avit_tiny_cpu corpus/val/muscle_timtrack corpus/train/hc18
"""

import argparse
from pathlib import Path

import matplotlib.figure
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.callbacks.pictures import draw_panels, reconstruction_panels, save_figure

# Panels of the curves' figure: title, then each curve's tag and label.
PANELS = (
    (
        "reconstruction error (Eq. 3)",
        ("val/loss/reconstruction", "held out"),
        ("val/loss/neighbour_mean", "mean of neighbours"),
    ),
    ("self-distillation (Eq. 5)", ("train/loss/self_distillation", "loss")),
    ("weight of L_adv (Eq. 6)", ("train/adversarial_weight", "lambda times weight")),
    (
        "D is right about",
        ("train/discriminator/real_accuracy", "true patches"),
        ("train/discriminator/fake_accuracy", "reconstructed"),
    ),
)


def curves(run: Path) -> matplotlib.figure.Figure:
    """Draw the logged scalars over the steps."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    figure = matplotlib.figure.Figure(figsize=(11, 2.9), layout="constrained")
    for axis, (title, *lines) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for tag, label in lines:
            scalars = events.Scalars(tag)
            axis.plot([s.step for s in scalars], [s.value for s in scalars], label=label, linewidth=1)
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.legend(frameon=False, fontsize="small")
    return figure


def reconstructions(run: Path, shards: list[str], images_each: int = 2) -> matplotlib.figure.Figure:
    """Draw the first images of each folder of shards, whole, with fixed masks."""
    module = ARL.from_checkpoint(run / "checkpoints/last.ckpt").eval()
    rows, names = [], []
    for folder in shards:
        data = PretrainingDataModule(
            folder, images_each, 0, global_size=module.encoder_options.image_size, val_shards=folder, num_val_batches=1
        )
        batch = next(iter(data.val_dataloader()))
        rows.append(reconstruction_panels(module, batch["global_views"][:, 0], batch["anatomy"], batch["seed"]))
        names += [f"{Path(folder).name}\n({module.vocabulary.name(int(index))})" for index in batch["anatomy"]]
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return draw_panels(torch.cat(rows), names, checkpoint["global_step"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("shards", nargs="+")
    given = parser.parse_args()
    save_figure(curves(given.run), Path(__file__).parent / "curves.png")
    save_figure(reconstructions(given.run, given.shards), Path(__file__).parent / "reconstruction.png")
