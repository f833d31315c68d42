"""Reads a folder of images by class, the layout that tasks without a released one take.

    root/<class>/image.png                       or, where patients are known,
    root/<class>/<patient>/image.png             and, where the split is given, below train, val and test:
    root/train/<class>/[<patient>/]image.png

A `labels.csv` in the root is read instead, as a table (see `table_listing`); its paths start from the root.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.media import CLIP_SUFFIXES, IMAGE_SUFFIXES
from arl_lightning.data.sources.layout import refuse_closed
from arl_lightning.data.tasks.case import Case, Finding, Listing, SplitName
from arl_lightning.data.tasks.table import LABEL, SPLITS, check_positive, derived_findings, table_listing
from arl_lightning.data.wording import count, one_line
from arl_lightning.errors import UserError

TABLE = "labels.csv"


def labelled_listing(
    root: Path,
    table: Path | None,
    classes: tuple[str, ...] | None,
    positive: str | None,
    where: str,
    label_column: str = LABEL,
    structures: tuple[str, ...] = (),
) -> Listing:
    """List the cases of a user's table, of the root's `labels.csv`, or of its folders, in this order of preference.

    Args:
        root: The folder; may be `Path()` with a table, whose own folder its paths then start from.
        table: The user's table, None for none.
        classes: The classes, compared without regard to case; None for those that the table or the folders name.
        positive: The class that counts as positive, where there are two.
        where: Where the set is asked for, for messages.
        label_column: Another name of a table's column `label`.
        structures: What the masks of a table show; empty where masks are not used.

    Raises:
        UserError: If there is no such folder or table, or it holds no image.
    """
    refuse_closed(root)
    if table is None and (root / TABLE).is_file():
        table = root / TABLE
    if table is not None:
        return table_listing(table, root, classes, positive, structures, where, label_column)
    return folder_listing(root, classes, positive, where)


def folder_listing(root: Path, classes: tuple[str, ...] | None, positive: str | None, where: str) -> Listing:
    """List the images of a folder by class; what is in no class becomes a finding.

    Raises:
        UserError: If there is no such folder, or it holds no image of a class.
    """
    layout = f"<class>/[<patient>/]image.png, or a {TABLE}"
    if not root.is_dir():
        raise UserError(f"{one_line(root)}: no such folder; --root names one that holds {layout} ({where})")
    found, links = _without_links(root, list(_walk(root)))
    names = sorted({image.label for image in found})
    if not names:
        raise UserError(f"{one_line(root)}: holds no image in a folder of a class; --root names {layout} ({where})")
    vocabulary = classes if classes is not None else tuple(names)
    spelling = {name.casefold(): name for name in vocabulary}
    cases = [
        Case(
            image.path.relative_to(root).as_posix(),
            image.path,
            label=spelling[image.label.casefold()],
            patient=image.patient,
            split=image.split,
        )
        for image in found
        if image.label.casefold() in spelling
    ]
    if not cases:
        raise UserError(
            f"{one_line(root)}: holds no folder {' or '.join(vocabulary)}, only {one_line(', '.join(names))};"
            f" --root names {layout} ({where})"
        )
    cases.sort(key=lambda case: case.key)
    check_positive(root, vocabulary, positive)
    findings = [*_unknown_classes(root, found, vocabulary), *_leftovers(root, found, links)]
    if classes is None:
        findings += derived_findings(vocabulary, root)
    return Listing(tuple(cases), vocabulary, positive, (), tuple(findings), root)


@dataclass(frozen=True)
class _Image:
    path: Path
    label: str
    patient: str | None
    split: SplitName | None


def _walk(root: Path) -> Iterator[_Image]:
    """Yield the images that lie one or two folders below the root's, or below its parts' folders."""
    parts = [folder for folder in _folders(root) if folder.name.lower() in SPLITS]
    for top in [root, *parts]:
        split = None if top == root else SPLITS[top.name.lower()]
        for folder in _folders(top):
            if folder in parts:
                continue
            for path in _images(folder):
                yield _Image(path, folder.name, None, split)
            for patient in _folders(folder):
                for path in _images(patient):
                    yield _Image(path, folder.name, patient.name, split)


def _folders(folder: Path) -> list[Path]:
    """Return the folders within, but no link that leads back to this one or to one around it."""
    here = folder.resolve()
    return sorted(
        path
        for path in _entries(folder)
        if path.is_dir() and not (path.is_symlink() and here.is_relative_to(path.resolve()))
    )


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in _entries(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _without_links(root: Path, found: list[_Image]) -> tuple[list[_Image], list[Path]]:
    """Take a file once for a class and a part, under its own name before a link's; return the other links too.

    A file in two classes or two parts stays in both, for its picture to be found there.
    """
    real = root.resolve()
    names = {image: image.path.resolve() for image in found}
    once: dict[tuple[Path, str, SplitName | None], _Image] = {}
    for image in sorted(found, key=lambda image: names[image] != real / image.path.relative_to(root)):
        once.setdefault((names[image], image.label.casefold(), image.split), image)
    kept = set(once.values())
    return [image for image in found if image in kept], [image.path for image in found if image not in kept]


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{one_line(folder)}: cannot be read ({error.strerror}); grant access to it") from error


def _unknown_classes(root: Path, found: list[_Image], vocabulary: tuple[str, ...]) -> Iterator[Finding]:
    known = {name.casefold() for name in vocabulary}
    sizes: dict[Path, int] = defaultdict(int)
    for image in found:
        if image.label.casefold() not in known:
            sizes[image.path.parent if image.patient is None else image.path.parent.parent] += 1
    for folder, size in sizes.items():
        reason = f"{count(size, 'image')} of no known class; rename the folder to one of {', '.join(vocabulary)}"
        yield Finding(folder, "inconsistent", f"{reason}, or move it out of {one_line(root)}")


def _leftovers(root: Path, found: list[_Image], links: list[Path]) -> Iterator[Finding]:
    """Find media that belong to no case, and images below parts beside images that are in none."""
    if links:
        yield Finding(links[0], "note", f"{count(len(links), 'link')} to a listed image, such as this, left out")
    listed = {*links, *(image.path for image in found)}
    stray = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES + CLIP_SUFFIXES
        and path not in listed
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if stray:
        reason = f"{count(len(stray), 'image or clip')} left out, such as this, for it is not <class>/[<patient>/]image"
        yield Finding(stray[0], "note", f"{reason}; a {TABLE} can name frames of clips")
    loose = [image.path for image in found if image.split is None]
    if 0 < len(loose) < len(found):
        reason = f"{count(len(loose), 'image')} in no part, such as this, beside train, val or test; move or delete"
        yield Finding(loose[0], "inconsistent", reason, whole=True)
