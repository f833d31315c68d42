"""Packs a source into shards: the function behind `arl shards pack`."""

import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.shards.writer import Encoding, ShardWriter
from arl_lightning.data.sources.folder import Folder, find_media
from arl_lightning.errors import UserError

REJECTED_FILE = "rejected.tsv"
NUM_SHOWN = 10


@dataclass(frozen=True)
class PackReport:
    """What was packed and what was not; as a string, what the command line prints at its end.

    Attributes:
        out: The shards' folder.
        manifest: The shards.
        num_files: Files that were read, None for a source without files.
        rejected: The files, or parts of clips, that could not be read.
        seconds: The time it took.
    """

    out: Path
    manifest: Manifest
    num_files: int | None
    rejected: tuple[Rejected, ...]
    seconds: float

    def __str__(self) -> str:
        """Return the report as lines of text."""
        manifest = self.manifest
        files = "" if self.num_files is None else f" from {_count(self.num_files, 'file')}"
        num_bytes = sum(shard.num_bytes for shard in manifest.shards)
        speed = manifest.num_samples / max(self.seconds, 1e-9)
        anatomies = ", ".join(f"{name} {number:,}" for name, number in manifest.anatomies.items())
        return "\n".join(
            [
                f"packed {_count(manifest.num_samples, 'image')}{files} in {self.seconds:.1f} s ({speed:,.0f} img/s)",
                f"  anatomies  {anatomies}",
                f"  shards     {len(manifest.shards):,} in {self.out}, {_size(num_bytes)}",
                *self._rejected_lines(),
                f"next: arl pretrain --config recipes/pretrain/avit_tiny_cpu.yaml "
                f"--data.shards {shlex.quote(str(self.out))}",
            ]
        )

    def _rejected_lines(self) -> list[str]:
        if not self.rejected:
            return ["  rejected   none"]
        shown = [f"    {item.path}: {item.reason}" for item in self.rejected[:NUM_SHOWN]]
        more = len(self.rejected) - len(shown)
        tail = [f"    and {more:,} more"] if more else []
        return [f"  rejected   {len(self.rejected):,}, listed in {self.out / REJECTED_FILE}", *shown, *tail]


@dataclass(frozen=True)
class _Source:
    """An opened source: its items, and how many files (or, without files, images) they come from."""

    items: Iterator[Sample | Rejected]
    total: int
    root: Path | None

    def unit(self, item: Sample | Rejected) -> str:
        """Return the file that an item came from."""
        if isinstance(item, Sample):
            return item.video or item.name
        return item.path.relative_to(self.root).as_posix() if self.root else str(item.path)


def pack(
    source: Literal["folder", "phantom"],
    out: Path,
    root: Path | None = None,
    anatomy: str | None = None,
    include: list[str] | str | None = None,
    exclude: list[str] | str | None = None,
    fps: float = 2.0,
    num_samples: int = 640,
    samples_per_shard: int = 2000,
    short_side: int | None = 384,
    image_format: Literal["jpg", "png"] = "jpg",
    quality: int = 92,
    seed: int = 0,
    max_bad_share: float = 0.05,
    anatomies: list[str] | None = None,
) -> PackReport:
    """Pack images into checksummed WebDataset shards for pretraining.

    The default short side keeps the smallest local crop of pretraining (5 % of the area for 96 pixels: 86 of 384) near
    its own resolution, while shards stay small and decode fast.

    Args:
        source: `folder` reads your images and clips, `phantom` draws synthetic ultrasound.
        out: Folder for the shards; must not hold shards yet.
        root: Folder source: the folder with the images and clips.
        anatomy: Folder source: what all of them show, e.g. breast; `other` if it is none of the vocabulary.
        include: Folder source: pattern, or list of patterns, of files to read, e.g. `test_data/*`; all by default.
        exclude: Folder source: pattern, or list of patterns, of files to leave out, e.g. `*_mask*` or `masks/*`.
        fps: Folder source: frames taken from each second of a clip.
        num_samples: Phantom source: images to draw.
        samples_per_shard: The most images of one shard.
        short_side: Scale larger images down to this short side in pixels; null keeps every size.
        image_format: `jpg`, or `png` to store without loss.
        quality: JPEG quality, 1 to 100.
        seed: Of the shuffle, and of the phantom.
        max_bad_share: Give up if more than this share of the files cannot be read.
        anatomies: Folder source: a vocabulary of your own, the same as `--model.anatomies` in pretraining.

    Returns:
        The report, for printing.

    Raises:
        UserError: If an argument is wrong, `out` holds shards already, or too many files cannot be read.
    """
    if not 0 <= max_bad_share <= 1:
        raise UserError(f"--max_bad_share {max_bad_share}: must be 0 to 1")
    start = time.perf_counter()
    encoding = Encoding(image_format, quality, short_side)
    if source == "folder":
        vocabulary = AnatomyVocabulary(anatomies or ANATOMIES)
        opened = _open_folder(root, anatomy, vocabulary, _patterns(include), _patterns(exclude), fps)
    else:
        _refuse_folder_arguments(root=root, anatomy=anatomy, include=include, exclude=exclude, anatomies=anatomies)
        opened = _open_phantom(num_samples, seed)
    with ShardWriter(out, samples_per_shard, encoding, seed) as writer:
        rejected = _add_all(writer, opened)
        _list_rejected(rejected, out / REJECTED_FILE)
        _check_share(rejected, opened.total, writer.num_samples, max_bad_share, out)
        manifest = writer.finish()
    num_files = opened.total if source == "folder" else None
    return PackReport(out, manifest, num_files, tuple(rejected), time.perf_counter() - start)


def _patterns(given: list[str] | str | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _open_folder(
    root: Path | None,
    anatomy: str | None,
    vocabulary: AnatomyVocabulary,
    include: list[str],
    exclude: list[str],
    fps: float,
) -> _Source:
    if root is None or anatomy is None:
        missing = "--root" if root is None else "--anatomy"
        raise UserError(f"{missing}: missing; use `--source folder --root DIR --anatomy NAME`")
    folder = Folder(root, vocabulary.canonical(anatomy), fps, tuple(include), tuple(exclude))
    items = (item for unit in folder.units() for item in folder.read(unit))
    return _Source(items, sum(1 for _ in find_media(root, exclude, include)), root)


def _open_phantom(num_samples: int, seed: int) -> _Source:
    from arl_lightning.data.sources.phantom import Phantom  # spares a folder's packing the phantom's imports

    if num_samples < 1:
        raise UserError(f"--num_samples {num_samples}: must be at least 1")
    phantom = Phantom(num_samples, seed)
    return _Source((item for unit in phantom.units() for item in phantom.read(unit)), num_samples, None)


def _refuse_folder_arguments(**arguments: object) -> None:
    given = [f"--{name}" for name, value in arguments.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)}: the phantom has no files; leave it out or use --source folder")


def _add_all(writer: ShardWriter, source: _Source) -> list[Rejected]:
    rejected = []
    for item in _with_progress(writer, source):
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            writer.add(item)
    return rejected


def _with_progress(writer: ShardWriter, source: _Source) -> Iterable[Sample | Rejected]:
    """Pass the items on under a bar that counts files: how many frames a clip will give is not known before."""
    current = None
    start = time.perf_counter()
    unit = " files" if source.root else " img"
    interval = 0.1 if sys.stderr.isatty() else 10.0  # seconds between two lines in a log file
    with tqdm(total=source.total, desc="pack", unit=unit, smoothing=0, mininterval=interval, miniters=1) as bar:
        for item in source.items:
            yield item
            if source.unit(item) != current:
                current = source.unit(item)
                speed = writer.num_samples / (time.perf_counter() - start)
                bar.set_postfix_str(f"{speed:,.0f} img/s", refresh=False)
                bar.update()


def _list_rejected(rejected: list[Rejected], path: Path) -> None:
    if not rejected:
        path.unlink(missing_ok=True)  # of an earlier, failed run
        return
    lines = ["path\treason", *(f"{_one_field(str(item.path))}\t{_one_field(item.reason)}" for item in rejected)]
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    temporary.replace(path)


def _check_share(rejected: list[Rejected], num_files: int, num_samples: int, max_bad_share: float, out: Path) -> None:
    share = len(rejected) / num_files
    if share <= max_bad_share and num_samples:
        return
    names = ", ".join(f"{item.path.name} ({item.reason})" for item in rejected[:3])
    limit = f"more than --max_bad_share {max_bad_share:g}" if share > max_bad_share else "no image is left"
    fix = "mend or exclude them" + (", or raise --max_bad_share" if num_samples else "")
    raise UserError(
        f"{len(rejected)} of {_count(num_files, 'file')} ({share:.1%}) cannot be read, {limit}: {names}"
        f"{', ...' if len(rejected) > 3 else ''}; all are listed in {out / REJECTED_FILE}; {fix}"
    )


def _one_field(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} kB"
