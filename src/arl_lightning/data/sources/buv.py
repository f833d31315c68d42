"""Reads BUV, the breast ultrasound videos of CVA-Net, stored as frames."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import check_every, image_files, read_still, refuse_empty
from arl_lightning.errors import UserError

CLASSES = ("benign", "malignant")
WHERE = "the authors of CVA-Net, through their code repository; article doi:10.1007/978-3-031-16437-8_59"

# Videos of one patient: four by the errata of the release, and two pairs of copies of one video (see Faults).
ONE_PATIENT = (
    ("63c9ba1377f35bf6", "5a1c46ec6377e946", "2390fbea047347b", "7a39ab5d4970bf89"),
    ("66ef02e7f1b9a0ef", "3b88488853e8b7d1"),
    ("1282311c38f808f", "9c1c965d274c457"),
)
PATIENTS = {video: f"of {group[0]}" for group in ONE_PATIENT for video in group}


@dataclass(frozen=True)
class Buv:
    """BUV: 188 videos by the article, 186 in the annotations of the present release (149 + 37).

    Layout:
        As in the archive `Miccai 2022 BUV Dataset.7z`:

        Miccai 2022 BUV Dataset/
          rawframes/benign/<video>/000000.png     a video's frames, numbered from 0; <video> is x and 16 hex digits
          rawframes/malignant/<video>/000000.png
          imagenet_vid_train_15frames.json        boxes, COCO-like, 149 videos; not read
          imagenet_vid_val.json                   the same, 37 videos; not read

        The folder is the video. Frame numbers and PNG are confirmed by the authors' reader and by others; the frame
        rate is nowhere stated, so frames are taken by their count.

    Citation:
        Lin Z, Lin J, Zhu L, Fu H, Qin J, Wang L. A New Dataset and a Baseline Model for Breast Lesion Detection in
        Ultrasound Videos. MICCAI 2022, LNCS 13433:614-623, doi:10.1007/978-3-031-16437-8_59.

    Licence:
        Non-commercial research and education only, as users of the set state it.

    Access:
        The authors, through the code repository of CVA-Net.

    Faults:
        Patients are unknown but for an `errata.txt` said to come with the frames, which names four videos of one
        patient (two of them in the wrong class) and calls benign/x66ef02e7f1b9a0ef a copy of
        malignant/x3b88488853e8b7d1. Others found 106 of the 110 frames of benign/x1282311c38f808f in
        malignant/x9c1c965d274c457. All are read; each group is given one `patient` so that no split parts it. Some
        boxes have negative sizes.

    Attributes:
        root: The folder that holds `rawframes`.
        anatomy: The anatomy of all frames.
        every: Take every n-th frame of a video, from its first.
    """

    root: Path
    anatomy: str = "breast"
    every: int = 5
    name = "buv"

    def __post_init__(self) -> None:
        check_every(self.every)

    def units(self) -> list[Unit]:
        """List the videos, sorted by name.

        Raises:
            UserError: If the folder is not this data set or holds no video.
        """
        require(self.root, [f"rawframes/{label}" for label in CLASSES], "BUV", WHERE)
        videos = [video for label in CLASSES for video in _subfolders(self.root / "rawframes" / label)]
        refuse_empty(videos, self.root / "rawframes", "BUV", WHERE)
        return [
            Unit(video.relative_to(self.root).as_posix(), video, PATIENTS.get(video.name.removeprefix("x")))
            for video in videos
        ]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield every n-th frame of a video; a damaged frame costs that frame alone."""
        frames = [path for path in image_files(unit.path) if path.stem.isdecimal()]
        if not frames:
            yield Rejected(unit.path, "holds no frame; frames are named 000000.png and so on")
        for path in frames[:: self.every]:
            sample = read_still(path, self.anatomy, self.name, f"{unit.name}/{path.name}", unit.details)
            if isinstance(sample, Sample):
                sample = replace(sample, video=unit.name, frame=int(path.stem))
            yield sample


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); grant access to it") from error
