"""Draws what is kept of each object onto the picture as it was, for a person who must see what would leak.

The sheets, and the table from hashes to paths, hold everything that de-identification takes away. They go into a folder
that the user names, inside of the institution, and never beside shards.

Shapes: a tile is uint8 (TILE_HEIGHT, TILE_WIDTH, 3) BGR.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from arl_lightning.data.dicom.glimpse import Glimpse, drawn, glimpse
from arl_lightning.data.shards.manifest import FILE_NAME as MANIFEST
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.sources.dicom import Dicom
from arl_lightning.errors import UserError

WORK_FOLDER = ".packing"  # what packing leaves when it is killed
SPLITS = ("train", "val", "test")
TILE_WIDTH, TILE_HEIGHT, CAPTION = 480, 384, 24  # pixels
COLUMNS, ROWS = 3, 4
DIMMED = 0.45  # what is removed stays legible
GREEN, RED, WHITE = (0, 220, 0), (64, 64, 255), (255, 255, 255)
PATHS_FILE, FLAGGED_FILE = "paths.tsv", "review-flagged.tsv"  # packing has a flagged.tsv, without paths


@dataclass(frozen=True)
class Review:
    """What was written: the folder, its sheets, and how many objects are on them and flagged for text."""

    folder: Path
    sheets: tuple[Path, ...]
    num_objects: int
    num_flagged: int

    def __str__(self) -> str:
        """Return a line of text."""
        return (
            f"{len(self.sheets):,} review sheets of {self.num_objects:,} objects, {self.num_flagged:,} flagged for"
            f" text, in {self.folder}; they show patients' names: keep them inside, delete them after the review"
        )


def write_review(source: Dicom, folder: Path, num_objects: int | None = 240) -> Review:
    """Write contact sheets, the table from hashes to paths, and the list of objects with text.

    Args:
        source: With the options that packing will have.
        folder: Where to; made if missing, readable by its owner alone.
        num_objects: Objects on the sheets, drawn evenly from all files; None for all.

    Raises:
        UserError: If the folder lies in a corpus, holds anything already or cannot be written, or as `source.units()`.
    """
    _make_folder(folder)
    names = drawn(source.units(), num_objects)
    sheets = _Sheets(folder)
    flagged: list[str] = []
    with (folder / PATHS_FILE).open("w", encoding="utf-8", errors="surrogateescape") as paths:
        paths.write("name\tpath\n")
        for unit in source.units():
            row = f"{unit.name}\t{_one_field(source.path_of(unit))}"
            paths.write(f"{row}\n")
            if unit.name in names:
                seen = glimpse(source, unit)
                flagged += [f"{row}\t{flag}" for flag in [_flags(seen)] if flag]
                if seen.picture is not None:
                    sheets.add(draw_tile(seen.picture, seen, unit.name))
    sheets.finish()
    lines = ["name\tpath\tflag", *flagged]
    (folder / FLAGGED_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return Review(folder, tuple(sheets.paths), sheets.num_tiles, len(flagged))


class _Sheets:
    """Collects tiles and writes a sheet whenever one is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tiles: list[np.ndarray] = []
        self.paths: list[Path] = []
        self.num_tiles = 0

    def add(self, tile: np.ndarray) -> None:
        self._tiles.append(tile)
        self.num_tiles += 1
        if len(self._tiles) == COLUMNS * ROWS:
            self.finish()

    def finish(self) -> None:
        """Write the last sheet, part of which may be empty."""
        if not self._tiles:
            return
        blank = np.zeros((TILE_HEIGHT, TILE_WIDTH, 3), np.uint8)
        tiles = self._tiles + [blank] * (COLUMNS * ROWS - len(self._tiles))
        rows = [np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)]
        path = self._folder / f"sheet-{len(self.paths):04d}.png"
        if not cv2.imwrite(str(path), np.vstack(rows)):
            raise UserError(f"{path}: cannot be written; choose another folder for the review")
        self.paths.append(path)
        self._tiles = []


def draw_tile(picture: np.ndarray, seen: Glimpse, name: str) -> np.ndarray:
    """Return a tile: the picture, dimmed where it is removed, the outline of what is kept, and what was found."""
    height, width = picture.shape
    kept = np.zeros((height, width), bool)
    for area in seen.areas:
        kept[area.box.slices] |= True if area.mask is None else area.mask
    shown = np.where(kept, picture, picture * DIMMED).astype(np.uint8)
    scale = min(TILE_WIDTH / width, (TILE_HEIGHT - CAPTION) / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    canvas = np.zeros((TILE_HEIGHT, TILE_WIDTH, 3), np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)[..., None]
    outline = cv2.resize(kept.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, GREEN, 1)
    verdict = seen.reason or seen.areas[0].origin
    flags = _flags(seen)
    _write(canvas, 10, f"{name[:12]}  {'rejected' if seen.reason else verdict}{'  TEXT' if flags else ''}", WHITE)
    _write(canvas, 0, seen.reason or flags, RED)
    return canvas


def _write(canvas: np.ndarray, above: int, text: str, colour: tuple[int, int, int]) -> None:
    place = (2, TILE_HEIGHT - 3 - above)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, 1, cv2.LINE_AA)


def _flags(seen: Glimpse) -> str:
    seen_text = ["text seen in what is kept"] if seen.text_seen else []
    return ", ".join(seen_text + (["BurnedInAnnotation is YES"] if seen.text_stated else []))


def _make_folder(folder: Path) -> None:
    places = (folder.resolve(), *folder.resolve().parents)
    for place in places:
        if _holds_shards(place) or (place in places[:2] and _holds_splits(place)):
            raise UserError(
                f"{folder}: {place} holds shards, and review sheets show patients' names; name another folder"
            )
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is not empty; name a new folder for the review, or delete this one")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); name another folder for the review") from error


def _holds_shards(place: Path) -> bool:
    """Tell whether a folder holds shards or is being packed."""
    begun = (place / WORK_FOLDER).exists() or any(place.glob("shard-*.tar"))
    return begun or _fingerprint(place / MANIFEST) is not None


def _holds_splits(place: Path) -> bool:
    """Tell whether a folder holds a corpus' splits; a corpus beside the review is another matter."""
    told = {path.parent.name: _fingerprint(path) for path in place.glob(f"*/{MANIFEST}")}
    splits = {name: fingerprint for name, fingerprint in told.items() if fingerprint is not None}
    return len(set(splits.values())) < len(splits) or any(name in splits for name in SPLITS)


def _fingerprint(manifest: Path) -> str | None:
    """Return what a manifest's shards were packed from, None for a file of that name that is none of ours."""
    try:
        return Manifest.load(manifest.parent).fingerprint
    except UserError:
        return None


def _one_field(path: Path) -> str:
    return " ".join(str(path).split())
