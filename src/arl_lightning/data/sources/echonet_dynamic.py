"""Reads EchoNet-Dynamic, apical four-chamber echocardiograms."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.folder import check_fps, clip_samples
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.source import Unit

SPLITS = ("train", "val", "test")
TABLE = "FileList.csv"
WHERE = "EchoNet-Dynamic in the shared data sets of Stanford AIMI"


@dataclass(frozen=True)
class EchoNetDynamic:
    """EchoNet-Dynamic: 10,030 apical four-chamber videos of the heart, one a patient; a downstream set.

    Layout:
        EchoNet-Dynamic/
            Videos/0X1002E8FBACD08477.avi, ...      112 x 112 pixels
            FileList.csv            FileName, EF, ESV, EDV, FrameHeight, FrameWidth, FPS, NumberOfFrames, Split
            VolumeTracings.csv      not read

        The table says which videos there are, with or without `.avi`, and their split. A video that it lists and the
        folder lacks is reported, one that it does not list is left out. The patient is the video: one was taken of
        each person. By default only the training part is read, so that the corpus holds nothing of the validation and
        test parts that the downstream task reports on.

    Citation:
        Ouyang D, He B, Ghorbani A, Yuan N, Ebinger J, et al., "Video-Based AI for Beat-to-Beat Assessment of Cardiac
        Function", Nature 580 (2020) 252-256, doi:10.1038/s41586-020-2145-8.

    Licence:
        Research use agreement of Stanford University, not commercial; no open redistribution.

    Access:
        Register at the shared data sets of the Stanford Center for Artificial Intelligence in Medicine and Imaging
        (AIMI) and sign the agreement for EchoNet-Dynamic.

    Faults:
        Small: 112 x 112 pixels. A few videos have no tracing; they are read all the same. The pixel size is not given.

    Attributes:
        root: The folder that holds the table and `Videos`.
        anatomy: The anatomy of all images.
        fps: Frames taken from each second of a video.
        splits: `train`, `val`, `test`, or several of them.
    """

    root: Path
    anatomy: str = "cardiac"
    fps: float = 5.0
    splits: tuple[str, ...] = ("train",)
    name = "echonet_dynamic"

    def units(self) -> list[Unit]:
        """List the videos of the wanted splits.

        Raises:
            UserError: If the root is not EchoNet-Dynamic, the table lacks a column or an option is wrong.
        """
        check_fps(self.fps)
        check_choices("splits", self.splits, SPLITS)
        require(self.root, (TABLE, "Videos"), "EchoNet-Dynamic", WHERE)
        rows = read_csv(self.root / TABLE, ("FileName", "Split"), where=WHERE)
        stems = {
            row["FileName"].strip().removesuffix(".avi")
            for row in rows
            if row.get("Split", "").strip().lower() in self.splits
        }
        return [Unit(f"Videos/{stem}.avi", self.root / "Videos" / f"{stem}.avi", stem) for stem in sorted(stems)]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield a video's frames; a fault midway, or a missing file, ends it with a `Rejected`."""
        yield from clip_samples(unit, self.anatomy, self.name, self.fps, patient=unit.details, probe="sector")
