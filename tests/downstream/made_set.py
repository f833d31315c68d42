"""A small table of bright and dark speckle images, with a square in each: for runs that take seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

WORDS = [
    *("--encoder.name", "avit_tiny_patch16_224", "--loading.image_size", "32", "--loading.batch_size", "8"),
    *("--optimization.epochs", "2", "--optimization.warmup_epochs", "1", "--devices.accelerator", "cpu"),
    *("--split.test", "12", "--split.val", "8"),
]


def write_set(folder: Path, num_images: int = 48, per_patient: int = 2) -> Path:
    """Write images and masks, and return the table `image,label,patient,mask`."""
    (folder / "images").mkdir(parents=True)
    draw, lines = np.random.default_rng(0), ["image,label,patient,mask"]
    for number in range(num_images):
        bright = number // per_patient % 2
        pixels = draw.integers(0, 100, (40, 48)) + 100 * bright
        mask = np.zeros((40, 48), np.uint8)
        row, column = draw.integers(4, 20, 2)
        mask[row : row + 14, column : column + 14] = 255
        pixels[mask > 0] += 50
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(folder / "images" / f"{number:02d}_mask.png")
        label = ("dark", "bright")[bright]
        lines.append(f"images/{number:02d}.png,{label},p{number // per_patient},images/{number:02d}_mask.png")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def words(table: Path, out: Path, *more: str) -> list[str]:
    """Return the words of a command on it."""
    return ["custom", "--table", str(table), "--out", str(out), "--options.positive", "bright", *WORDS, *more]
