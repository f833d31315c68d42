"""`arl predict`: what a trained run makes of images, clips and DICOM objects.

Legend: B images of a batch, C channels, S side of the square that the network sees, K classes or structures.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from arl_lightning.arguments import positional
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.data.wording import count, one_line
from arl_lightning.downstream.attention import From
from arl_lightning.downstream.load import LoadedRun, open_run
from arl_lightning.downstream.predict_inputs import Frame, Source, find_sources, read_frames
from arl_lightning.downstream.predict_pictures import Pictures
from arl_lightning.downstream.predict_table import MEAN, Row, table, write_csv
from arl_lightning.errors import UserError


@positional("inputs", anywhere=True)
def predict(
    inputs: list[Path],
    checkpoint: Path,
    out: Path | None = None,
    anatomy: str | None = None,
    fps: float = 3.0,
    masks: Path | None = None,
    overlays: Path | None = None,
    attention: Path | None = None,
    attention_from: From = "class",
    offsets: Path | None = None,
    block: int | None = None,
    batch_size: int = 32,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> str:
    """Say what a trained run makes of images: classes with probabilities, or areas of structures.

    Args:
        inputs: Images, clips, DICOM objects, or folders, which are searched for all of them.
        checkpoint: The run's folder, of whose seeds and folds the mean is taken, or one of its .ckpt files.
        out: A .csv file for the table, with all digits; without, the table is printed.
        anatomy: What the encoder is told instead of the run's own; none for nothing.
        fps: Frames of a clip that are looked at in each second; the clip's own row is their mean.
        masks: Folder for masks of the images' own size, for a segmentation.
        overlays: Folder for images with outlines, for a segmentation.
        attention: Folder for pictures of what a block attends to.
        attention_from: Whose attention: the class token's, or the mean over all patches.
        offsets: Folder for pictures of where an A-ViT's deformable block reads.
        block: Which block's, counted from 0; by default the last.
        batch_size: Images at once; a smaller one needs less memory and gives the same.
        device: auto takes a GPU where there is one.

    Returns:
        The table, or where it was written.

    Raises:
        UserError: If the run or an option cannot be used, or nothing could be read.
    """
    pictures = Pictures(masks, overlays, attention, offsets, attention_from, block)
    _check(out, fps, batch_size)
    sources = find_sources(inputs)
    run = open_run(checkpoint, _device(device))
    told = run.anatomy_index(anatomy)
    pictures.check(run, inputs)
    for line in [*run.notes(), *pictures.notes(run)]:
        tqdm.write(line, sys.stderr)
    files = predict_files(run, sources, told, Fraction(fps).limit_denominator(1000), batch_size, pictures)
    rows = [row for file in files for row in file.rows(run)]
    if out is not None:
        write_csv(run, rows, out)
    unread = [file for file in files if not file.frames]
    if len(unread) == len(files):
        raise UserError(f"none of {count(len(files), 'file')} could be read; see above, and give whole ones")
    if out is None:
        return table(run, rows)
    num_images = sum(len(file.frames) for file in files)
    failed = f", {count(len(unread), 'file')} could not be read" if unread else ""
    return f"{one_line(out)}: {count(num_images, 'image')} of {count(len(files) - len(unread), 'file')}{failed}"


@dataclass
class PredictedFile:
    """What was said of a file.

    Attributes:
        path: The file.
        frames: Index of each frame, None for a still, and its (K,) probabilities or areas.
        problem: What was wrong with the file.
    """

    path: Path
    frames: list[tuple[int | None, np.ndarray]] = field(default_factory=list)
    problem: str = ""

    def rows(self, run: LoadedRun) -> list[Row]:
        """Return a row for each frame, and one for a clip: the mean of the frames that could be read."""
        if not self.frames:
            return [Row(self.path, problem=self.problem)]
        if self.frames[0][0] is None:
            values = self.frames[0][1]
            return [Row(self.path, "", self._named(run, values, False), values, self.problem)]
        rows = [Row(self.path, str(index), self._named(run, each, False), each) for index, each in self.frames]
        mean = np.mean([each for _, each in self.frames], axis=0)
        return [*rows, Row(self.path, MEAN, self._named(run, mean, True), mean, self.problem)]

    @staticmethod
    def _named(run: LoadedRun, values: np.ndarray, is_clip: bool) -> str:
        return "" if run.segments else run.decide(values, is_clip)


def predict_files(
    run: LoadedRun, sources: Sequence[Source], anatomy: int, fps: Fraction, batch_size: int, pictures: Pictures
) -> list[PredictedFile]:
    """Predict all frames of files, in batches that span files; what cannot be read is said on stderr.

    Args:
        run: The run.
        sources: The files.
        anatomy: Index in the encoder's vocabulary.
        fps: Frames of a clip in each second.
        batch_size: B.
        pictures: What is drawn along.
    """
    files = [PredictedFile(source.path) for source in sources]
    waiting: list[tuple[int, Frame]] = []

    def finish() -> None:
        frames, named = [frame for _, frame in waiting], [_name(sources[place], frame) for place, frame in waiting]
        for (place, frame), values in zip(waiting, _predict_batch(run, frames, named, anatomy, pictures), strict=True):
            files[place].frames.append((frame.index, values))
        waiting.clear()

    quiet = len(sources) < 2 or not sys.stderr.isatty()
    for place, source in enumerate(tqdm(sources, desc="predict", unit="file", file=sys.stderr, disable=quiet)):
        for read in read_frames(source.path, fps):
            if isinstance(read, Rejected):
                files[place].problem = one_line(read.reason)
                tqdm.write(f"{one_line(source.path)}: {files[place].problem}", sys.stderr)
                continue
            waiting.append((place, read))
            if len(waiting) == batch_size:
                finish()
    if waiting:
        finish()
    return files


def _predict_batch(
    run: LoadedRun, frames: Sequence[Frame], names: Sequence[Path], anatomy: int, pictures: Pictures
) -> list[np.ndarray]:
    """Return (K,) probabilities or areas of each frame, and draw what is wanted."""
    squares = torch.from_numpy(np.stack([run.square(frame.image) for frame in frames])).to(run.device)
    told = torch.full((len(frames),), anatomy, dtype=torch.int64, device=run.device)
    if pictures.attention or pictures.offsets:
        images = [frame.image for frame in frames]
        pictures.draw_looks(run, squares, told, list(zip(images, names, strict=True)))
    if not run.segments:
        return list(run.probabilities(squares, told))
    masks = run.masks(squares, told, [(frame.image.shape[0], frame.image.shape[1]) for frame in frames])
    for frame, mask, name in zip(frames, masks, names, strict=True):
        pictures.draw_masks(run, frame.image, mask, name)
    counted = len(run.structures) + 1
    return [np.bincount(mask.ravel(), minlength=counted)[1:].astype(np.float64) for mask in masks]


def _name(source: Source, frame: Frame) -> Path:
    name = source.name
    return name if frame.index is None else name.with_name(f"{name.name}_frame{frame.index:05d}")


def _check(out: Path | None, fps: float, batch_size: int) -> None:
    if out is not None and out.suffix.lower() != ".csv":
        raise UserError(f"--out {one_line(out)}: must end in .csv")
    if not 0 < fps <= 1000:
        raise UserError(f"--fps {fps:g}: must be above 0 and at most 1000")
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: must be at least 1")


def _device(wanted: str) -> torch.device:
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("--device cuda: this machine has no GPU that PyTorch can use; use auto or cpu")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")
