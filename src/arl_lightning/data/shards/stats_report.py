"""What a packed corpus holds, as numbers and as the table that the command line prints."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arl_lightning.data.wording import human_size, one_line


@dataclass(frozen=True)
class Spread:
    """Of a number of pixels over all images; the deviation is the population's."""

    mean: float
    std: float
    minimum: int
    maximum: int


@dataclass(frozen=True)
class Groups:
    """Images by patient, or by clip.

    Attributes:
        number: Patients or clips.
        images: Images that name one.
        sizes: Number of images of each, ascending.
    """

    number: int
    images: int
    sizes: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class SourceStats:
    """What one source contributes."""

    images: int
    anatomies: dict[str, int]
    patients: int
    clips: int


@dataclass(frozen=True)
class StatsReport:
    """What a corpus holds; as a string, the table that the command line prints.

    Attributes:
        shards: The folder.
        num_shards: Shards.
        num_samples: Images.
        anatomies: Images of each anatomy, the most frequent first.
        sources: The sources, the largest first.
        sizes: Images of each height and width.
        height: Spread of the heights in pixels.
        width: Spread of the widths in pixels.
        patients: Images by patient.
        clips: Images by clip.
        probes: Images of each kind of probe, `unknown` included.
        num_spaced: Images with a known pixel spacing.
        tar_bytes: All shards.
        image_bytes: Encoded images in them.
        record_bytes: Records in them.
        files: What was written.
    """

    shards: Path
    num_shards: int
    num_samples: int
    anatomies: dict[str, int]
    sources: dict[str, SourceStats]
    sizes: dict[tuple[int, int], int] = field(repr=False)
    height: Spread
    width: Spread
    patients: Groups
    clips: Groups
    probes: dict[str, int]
    num_spaced: int
    tar_bytes: int
    image_bytes: int
    record_bytes: int
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        total = self.num_samples
        size = human_size(self.tar_bytes)
        lines = [f"{one_line(self.shards)}: {total:,} images in {self.num_shards:,} shards, {size}"]
        lines += ["", f"  {'anatomy':20}{'images':>12}{'share':>8}"]
        lines += [f"  {one_line(name):20}{count:12,}{count / total:8.1%}" for name, count in self.anatomies.items()]
        lines += ["", f"  {'source':20}{'images':>12}{'share':>8}{'patients':>10}{'clips':>9}  anatomies"]
        lines += [self._source_line(name, source) for name, source in self.sources.items()]
        lines += ["", f"  {'pixels':20}{'mean':>12}{'std':>8}{'min':>10}{'max':>9}"]
        for name, spread in (("height", self.height), ("width", self.width)):
            lines.append(f"  {name:20}{spread.mean:12.1f}{spread.std:8.1f}{spread.minimum:10}{spread.maximum:9}")
        lines += ["", self._groups_line("patients", self.patients), self._groups_line("clips", self.clips)]
        probes = ", ".join(f"{one_line(name)} {count / total:.1%}" for name, count in self.probes.items())
        lines += [
            f"  {'probe':20}{probes}",
            f"  {'pixel spacing':20}known for {self.num_spaced / total:.1%} of the images",
        ]
        lines += [
            f"  {'bytes':20}images {human_size(self.image_bytes)} ({human_size(self.image_bytes / total)} each),"
            f" records {human_size(self.record_bytes)}, tar headers and padding"
            f" {human_size(self.tar_bytes - self.image_bytes - self.record_bytes)}"
        ]
        return "\n".join([*lines, *(f"  {'written':20}{one_line(path)}" for path in self.files)])

    def _source_line(self, name: str, source: SourceStats) -> str:
        patients, clips = (f"{number:,}" if number else "-" for number in (source.patients, source.clips))
        names = [one_line(anatomy) for anatomy in source.anatomies]
        anatomies = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        share = source.images / self.num_samples
        return f"  {one_line(name):20}{source.images:12,}{share:8.1%}{patients:>10}{clips:>9}  {anatomies}"

    def _groups_line(self, name: str, groups: Groups) -> str:
        if not groups.number:
            return f"  {name:20}none known"
        return (
            f"  {name:20}{groups.number:,}, with {np.median(groups.sizes):g} images in the median and"
            f" {groups.sizes[-1]:,} at most; {groups.images / self.num_samples:.1%} of the images name one"
        )

    def content(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        content = asdict(self)
        del content["files"]
        content["shards"] = str(self.shards)
        content["sizes"] = [[*size, count] for size, count in self.sizes.items()]
        for name, groups in (("patients", self.patients), ("clips", self.clips)):
            # [images of one, how many have as many]
            content[name]["sizes"] = [list(pair) for pair in sorted(Counter(groups.sizes).items())]
        return content
