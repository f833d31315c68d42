"""Reads EchoNet-LVH, parasternal long-axis echocardiograms."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.folder import check_fps, clip_samples
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.source import Unit

SPLITS = ("train", "val", "test")
BATCHES = ("Batch1", "Batch2", "Batch3", "Batch4")
TABLE = "MeasurementsList.csv"
WHERE = "EchoNet-LVH in the shared data sets of Stanford AIMI"


@dataclass(frozen=True)
class EchoNetLvh:
    """EchoNet-LVH: 12,000 parasternal long-axis videos of the heart, with measured wall thickness.

    Layout:
        EchoNet-LVH/
            Batch1/0X1017398D3C3F5FEC.avi, ... Batch4/
            MeasurementsList.csv    HashedFileName, Calc, CalcValue, Frame, X1, X2, Y1, Y2, Frames, FPS, Width, Height,
                                    split; several rows a video

        The table says which videos there are and their split; a video lies in any of the four folders. Its other
        columns are not used. A video that the table lists and no folder holds is reported, one that the table does not
        list belongs to no split and is left out. The patient is unknown: the release names none, and it could not be
        confirmed whether two videos may be of one patient, so make splits with `splits`, which are the authors'.

    Citation:
        Duffy G, Cheng PP, Yuan N, He B, Kwan AC, et al., "High-Throughput Precision Phenotyping of Left Ventricular
        Hypertrophy With Cardiovascular Deep Learning", JAMA Cardiology 7 (2022) 386-395,
        doi:10.1001/jamacardio.2021.6059.

    Licence:
        Research use agreement of Stanford University, not commercial.

    Access:
        Register at the shared data sets of the Stanford Center for Artificial Intelligence in Medicine and Imaging
        (AIMI) and sign the agreement for EchoNet-LVH.

    Faults:
        Sizes and rates differ between videos. In some the sector is cut off, or marks lie beside it; a converter that
        fits the sector's outline rejects them by hand. The pixel size is not given.

    Attributes:
        root: The folder that holds the table and the four folders.
        anatomy: The anatomy of all images.
        fps: Frames taken from each second of a video.
        splits: `train`, `val`, `test`, or several of them.
    """

    root: Path
    anatomy: str = "cardiac"
    fps: float = 5.0
    splits: tuple[str, ...] = SPLITS
    name = "echonet_lvh"

    def units(self) -> list[Unit]:
        """List the videos of the wanted splits.

        Raises:
            UserError: If the root is not EchoNet-LVH, the table lacks a column or an option is wrong.
        """
        check_fps(self.fps)
        check_choices("splits", self.splits, SPLITS)
        require(self.root, (TABLE, *BATCHES), "EchoNet-LVH", WHERE)
        rows = read_csv(self.root / TABLE, ("HashedFileName", "split"), where=WHERE)
        wanted = {
            row["HashedFileName"].strip().removesuffix(".avi")
            for row in rows
            if row.get("split", "").strip().lower() in self.splits
        }
        present = {path.stem: path for batch in reversed(BATCHES) for path in (self.root / batch).glob("*.avi")}
        paths = sorted(present.get(stem, self.root / f"{stem}.avi") for stem in wanted)
        return [Unit(path.relative_to(self.root).as_posix(), path) for path in paths]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield a video's frames; a fault midway, or a missing file, ends it with a `Rejected`."""
        yield from clip_samples(unit, self.anatomy, self.name, self.fps, probe="sector")
