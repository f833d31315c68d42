"""Writes small made-up sets in the tasks' layouts. For demos and tests only: cartoons without clinical realism.

Classes differ in what is drawn, so that a network learns them in minutes; nothing that it learns there, and no score
that it reaches, says anything about patients.
"""

import csv
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from arl_lightning.data.tasks.busi import listed_faults
from arl_lightning.data.tasks.phantom_pictures import (
    BEAT,
    SYSTOLE,
    beating_heart,
    draw_lung,
    draw_still,
    moving,
    write_avi,
)
from arl_lightning.data.wording import one_line
from arl_lightning.errors import UserError

NOTE = "phantoms.json"
FORMATS = {"gbcu": 2}  # raised when a set's files change; 1 for others
GALLBLADDER = (0.15, 0.1, 0.85, 0.9)  # x0, y0, x1, y1 as shares: what is drawn of it, and any lesion, lies within
IMAGES_PER_PATIENT = 2
NUM_PATIENTS = (12, 100)

VIEWS = {"A4C": "cardiac", "PLAX": "aorta", "PSAX_AV": "gallbladder", "SC4V": "liver", "SSN": "esophageal"}
LUNGS = {
    "covid": ("Cov", "COVID-19"),
    "pneumonia": ("Pneu", "Bacterial pneumonia"),
    "regular": ("Reg", "Regular"),
    "viral": ("Vir", "Viral pneumonia"),
}
SECOND = 12  # frames of a lung's clip, and their number in a second
SIDE = 112  # of a heart's video, as in EchoNet-Dynamic


def write_phantom_set(task_name: str, folder: Path, num_patients: int = 40, seed: int = 0) -> Path:
    """Write a task's phantom set once; the same one that is there already is used again. For demos and tests only.

    Args:
        task_name: Of the task.
        folder: Where it goes; its name is the set's root.
        num_patients: Made-up patients, dealt to the classes in turn, with two images or one video each.
        seed: Of the pictures.

    Returns:
        The folder.

    Raises:
        UserError: If the task has no phantoms, there are too few or too many patients, the folder holds something
            else, or its parent cannot be made.
    """
    if task_name not in WRITERS:
        raise UserError(f"task '{task_name}': has no phantoms; choose from {', '.join(WRITERS)}")
    low, high = NUM_PATIENTS
    if not low <= num_patients <= high or seed < 0:
        raise UserError(f"num_patients {num_patients}, seed {seed}: give {low} to {high} patients and a seed from 0")
    note = {"format": FORMATS.get(task_name, 1), "task": task_name, "num_patients": num_patients, "seed": seed}
    if folder.exists():
        return _used_again(folder, note)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "move what is in its way, or call it in a folder that may be written"
        raise UserError(f"{one_line(folder.parent)}: phantoms go there, but {error.strerror}; {fix}") from error
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        WRITERS[task_name](made, num_patients, seed)
        (made / NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            return _used_again(folder, note)
    return folder


def _used_again(folder: Path, note: dict[str, object]) -> Path:
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != note:
        held = f"phantoms of {found}" if isinstance(found, dict) else "no phantoms"
        raise UserError(f"{one_line(folder)}: holds {one_line(held)}, {note} are asked for; remove the folder")
    return folder


@dataclass(frozen=True)
class _Item:
    """One picture to draw."""

    patient: int
    number: int  # of the patient's pictures
    label: str
    rng: np.random.Generator

    @property
    def name(self) -> str:
        return f"{self.patient:03d}_{self.number}"


def _items(
    labels: Sequence[str], num_patients: int, seed: int, per_patient: int = IMAGES_PER_PATIENT
) -> Iterator[_Item]:
    for patient, number in itertools.product(range(num_patients), range(per_patient)):
        rng = np.random.default_rng(np.random.SeedSequence((seed, patient, number)))
        yield _Item(patient, number, labels[patient % len(labels)], rng)


def _write_busi(root: Path, num_patients: int, seed: int) -> None:
    labels = ("benign", "malignant", "normal")
    faulty = frozenset().union(*listed_faults().values())  # the task would leave out images of these names
    names = {label: (n for n in itertools.count(1) if f"{label} ({n}).png" not in faulty) for label in labels}
    for item in _items(labels, num_patients, seed):
        image, mask = draw_still("breast", item.label, item.rng)
        name = f"{item.label} ({next(names[item.label])})"
        _save(root / item.label / f"{name}.png", image)
        _save(root / item.label / f"{name}_mask.png", 255 * mask)


def _write_gbcu(root: Path, num_patients: int, seed: int) -> None:
    labels = ("normal", "benign", "malignant")
    lines: dict[str, list[str]] = {"train": [], "test": []}
    boxes = {}
    for number, item in enumerate(_items(labels, num_patients, seed), start=1):
        name, (image, _) = f"im{number:05d}.jpg", draw_still("gallbladder", item.label, item.rng)
        _save(root / "imgs" / name, image)
        lines[_part(item, len(labels))].append(f"{name},{labels.index(item.label)}")
        size = image.shape[1], image.shape[0]
        box = [round(share * side) for share, side in zip(GALLBLADDER, 2 * size, strict=True)]
        boxes[name] = {"dim": size, "bbs": [["nml" if item.label == "normal" else "abn", box]]}
    (root / "bbox_annot.json").write_text(json.dumps(boxes) + "\n", encoding="utf-8")
    for part, entries in lines.items():
        (root / f"{part}.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")


def _write_pocus(root: Path, num_patients: int, seed: int) -> None:
    rows = []
    for item in _items(tuple(LUNGS), num_patients, seed, per_patient=1):
        letters, stated = LUNGS[item.label]
        name = f"{letters}_phantom_{item.patient:03d}"
        image, with_still = draw_lung(item.label, item.rng), item.patient // len(LUNGS) % 2 == 0
        clip = root / f"data/pocus_videos/convex/{name}.avi"
        clip.parent.mkdir(parents=True, exist_ok=True)
        write_avi(clip, moving(image, SECOND, item.rng), SECOND)
        stills = [f"{name}_still"] if with_still else []
        for still in stills:
            _save(root / f"data/pocus_images/convex/{still}.png", draw_lung(item.label, item.rng))
        rows += [[file, stated, "None", "convex", "", str(item.patient), "", "Yes"] for file in (name, *stills)]
    header = ["Filename", "Label", "License", "Probe", "Gender", "Patient ID / Name", "Lung /abdomen interface"]
    _save_csv(root / "data/dataset_metadata.csv", [[*header, "InThisRepo"], *rows])


def _write_echonet(root: Path, num_patients: int, seed: int) -> None:
    (root / "Videos").mkdir()
    files = [["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]]
    tracings = [["FileName", "X1", "Y1", "X2", "Y2", "Frame"]]
    for item in _items(("heart",), num_patients, seed, per_patient=1):
        stem = f"0XF{item.patient:015X}"
        frames, rows = beating_heart(SIDE, item.rng)
        write_avi(root / f"Videos/{stem}.avi", frames, rate=25)
        part = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")[item.patient % 5]
        files.append([stem, "", "", "", str(SIDE), str(SIDE), "25", str(BEAT), part])
        for frame in (0, SYSTOLE):
            tracings += [[f"{stem}.avi", *(f"{end:.3f}" for end in row), str(frame)] for row in rows[frame]]
    _save_csv(root / "FileList.csv", files)
    _save_csv(root / "VolumeTracings.csv", tracings)


def _write_thyroid(root: Path, num_patients: int, seed: int) -> None:
    for item in _items(("benign", "malignant"), num_patients, seed):
        path = root / f"{item.label}/patient{item.patient:03d}/{item.name}.png"
        _save(path, draw_still("thyroid", item.label, item.rng)[0])


def _write_echo_views(root: Path, num_patients: int, seed: int) -> None:
    rows = [["image", "view", "patient", "split"]]
    for item in _items(tuple(VIEWS), num_patients, seed):
        _save(root / f"images/{item.name}.png", draw_still(VIEWS[item.label], item.label, item.rng)[0])
        rows.append([f"images/{item.name}.png", item.label, str(item.patient), _part(item, len(VIEWS))])
    _save_csv(root / "labels.csv", rows)


def _write_custom(root: Path, num_patients: int, seed: int) -> None:
    rows = [["image", "label", "patient", "mask"]]
    for item in _items(("benign", "malignant"), num_patients, seed):
        image, mask = draw_still("breast", item.label, item.rng)
        names = [f"images/{item.name}.png", f"masks/{item.name}.png"]
        _save(root / names[0], image)
        _save(root / names[1], 255 * mask)
        rows.append([names[0], item.label, str(item.patient), names[1]])
    _save_csv(root / "labels.csv", rows)


def _part(item: _Item, num_classes: int) -> str:
    return "test" if item.patient // num_classes % 4 == 0 else "train"  # every fourth patient of a class


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _save_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


WRITERS: dict[str, Callable[[Path, int, int], None]] = {
    "busi": _write_busi,
    "gbcu": _write_gbcu,
    "pocus": _write_pocus,
    "echonet": _write_echonet,
    "thyroid": _write_thyroid,
    "echo_views": _write_echo_views,
    "custom": _write_custom,
}
