"""Says what is wrong with a task's files, for `arl tasks check`, and refuses to train on them."""

import csv
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arl_lightning.arguments import kinds_of, new_parser, normalised, positional
from arl_lightning.data.tasks.case import Finding, Listing
from arl_lightning.data.tasks.check_report import CheckReport
from arl_lightning.data.tasks.consistency import listing_findings, small_classes
from arl_lightning.data.tasks.groups import joined_groups
from arl_lightning.data.tasks.images import prepare
from arl_lightning.data.tasks.masks import NO_MASK
from arl_lightning.data.tasks.registry import task_class
from arl_lightning.data.tasks.task import Task
from arl_lightning.data.wording import count, one_line
from arl_lightning.errors import UserError

OPTIONS = "options"
CHECK_SIDE = 32  # nothing is shown: pixels are kept small


@positional("task")
def tasks_check(
    task: str,
    root: Path | None = None,
    table: Path | None = None,
    options: dict[str, Any] | None = None,
    masks: bool | None = None,
    list: Path | None = None,  # the option's name
) -> CheckReport:
    """Decode every image of a task, and say what is found, missing, unreadable or inconsistent; nothing is changed.

    Args:
        task: Name of the task.
        root: The set's folder, or `phantom` for made-up images in its layout.
        table: A csv file image,label[,patient][,split][,mask] that is read instead of the released layout.
        options: The task's own, as NAME=VALUE.
        masks: Check masks too; by default where cases have them.
        list: Write all findings to this csv file.

    Returns:
        The report, for printing, when all is well.

    Raises:
        UserError: If no set is named, or anything would stop a training; the report is printed before.
    """
    from arl_lightning.data.tasks.open import open_task

    if root is None and table is None:
        raise UserError(
            f"task {task}: no data; where to get the set: {task_class(task).where}",
            advice=f"then name its folder: arl tasks check {task} --root DIR, or your own images: --table FILE"
            " (--root phantom draws made-up images)",
        )
    if list is not None and not list.parent.is_dir():  # before every image is decoded
        raise UserError(f"--list {list}: no such folder; make it, or choose another file")
    report = check_task(open_task(task, root, table, typed_options(task, options or {})), masks)
    if list is not None:
        write_findings(list, report.findings)
    if report.num_stopping:
        tqdm.write(str(report), file=sys.stdout)
        whole = sum(finding.stops and finding.whole for finding in report.findings)
        left = f"; --skip_damaged cannot mend {whole:,}" if whole else ", or leave these files out by --skip_damaged"
        raise UserError(f"{task}: {count(report.num_stopping, 'finding')} would stop a training; mend them{left}")
    return report


def check_task(task: Task, masks: bool | None = None) -> CheckReport:
    """Decode every image of a task and report; masks are read where `masks` says so, by default where there are any."""
    listing = task.listing()
    with_masks = any(case.has_mask for case in listing.cases) if masks is None else masks
    images, findings = prepare(listing, CHECK_SIDE, 1, with_masks)
    if listing.classes:  # here labels matter beside masks, and a set may be good for them where some masks are lacking
        findings = [replace(each, kind="note") if each.reason == NO_MASK else each for each in findings]
        findings = list(dict.fromkeys([*findings, *listing_findings(listing, groups=images.groups)]))
    return CheckReport(task, listing, tuple(findings), images.native_sizes, with_masks)


def typed_options(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's own options as its types want them.

    Raises:
        UserError: If the task has no such option, or a value is not of its type.
    """
    made = task_class(task)
    words = [word for name, value in options.items() for word in _words(f"--{OPTIONS}.{name}", value)]
    parser = new_parser(f"arl tasks check {task}", made)
    parser.add_class_arguments(made, OPTIONS, skip={"root", "table"})
    parser.kinds = {f"{OPTIONS}.{name}": kind for name, kind in kinds_of(made).items()}
    given = parser.parse_args(normalised(words, [], {OPTIONS: dict[str, Any], **parser.kinds})).as_dict()[OPTIONS]
    return {name: given[name] for name in options}


def _words(option: str, value: object) -> Sequence[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [option, *map(str, value)]
    return [f"{option}={'null' if value is None else value}"]


def refuse_damage(findings: Sequence[Finding], name: str, allow: bool = False) -> set[Path]:
    """Refuse to train where a finding stops it.

    Args:
        findings: Of the listing and its files.
        name: Of the task, for the message.
        allow: Whether damaged files may be left out instead.

    Returns:
        The files to leave out; empty unless `allow`.

    Raises:
        UserError: If anything stops a training; with `allow`, if anything does that no file can be left out to mend.
    """
    stopping = [finding for finding in dict.fromkeys(findings) if finding.stops]
    whole = [finding for finding in stopping if finding.whole]
    if not stopping or (allow and not whole):
        return {finding.path for finding in stopping}
    told = whole if allow else stopping
    more = f" and {count(len(told) - 1, 'other finding')}" if told[1:] else ""
    fix = "--skip_damaged cannot mend it" if whole else "--skip_damaged leaves them out"
    raise UserError(
        f"{one_line(told[0].path)}: {one_line(told[0].reason)}{more}; `arl tasks check {name} --root DIR` lists them,"
        f" {fix}"
    )


def without_damage(
    listing: Listing, damaged: Iterable[Path], pictures: Mapping[int, bytes] | None = None, classes: bool = True
) -> Listing:
    """Leave out the cases whose image, clip or mask is among the damaged files; their places change.

    Args:
        listing: The cases.
        damaged: The files.
        pictures: A hash of each case's pixels, by place: identical ones count as of one patient.
        classes: Whether labels matter.

    Raises:
        UserError: If no case is left, or a class is left with samples of one patient only.
    """
    gone = frozenset(damaged)
    places = [place for place, case in enumerate(listing.cases) if gone.isdisjoint((case.path, *case.masks))]
    kept = tuple(listing.cases[place] for place in places)
    if not kept:
        raise UserError(f"{one_line(next(iter(gone), Path()))}: with it no case is left; mend the files first")
    left = replace(listing, cases=kept, findings=tuple(each for each in listing.findings if not each.stops))
    of_kept = {new: (pictures or {}).get(place, b"") for new, place in enumerate(places)}
    num_gone = len(listing.cases) - len(kept)
    for finding in small_classes(left, joined_groups(kept, of_kept)) if classes else ():
        after = f"after {count(num_gone, 'case')} {'was' if num_gone == 1 else 'were'} left out, " if num_gone else ""
        raise UserError(f"{one_line(finding.path)}: {after}{finding.reason}")
    return left


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write findings as csv: kind, path, reason.

    Raises:
        UserError: If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("kind", "path", "reason"))
            table.writerows((each.kind, each.path, each.reason) for each in findings)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"--list {path}: {error.strerror}; choose another file") from error
    finally:
        temporary.unlink(missing_ok=True)
