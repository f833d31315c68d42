"""Programs that know nothing of this project read its shards, with the code that `shards/README.md` shows."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset
from small_corpus import Item, make_item, write_corpus

from arl_lightning.data.packing.command import pack_sources
from arl_lightning.data.shards.inventory import list_shards
from arl_lightning.data.shards.tars import walk_entries

README = Path(__file__).parents[3] / "shards/README.md"
FOLDER = "corpus/public/train"  # as the snippets name it


def snippet(word: str) -> str:
    """The README's Python block that has a word in it."""
    (found,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if word in block)
    assert FOLDER in found
    return found


def decode(encoded: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def stored(folder: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Every sample's pixels and record by its key, read without any library for shards."""
    samples = {}
    for shard in list_shards(folder):
        with shard.path.open("rb") as file:
            for entry in list(walk_entries(file)):
                samples[entry.key] = decode(entry.image.read(file)), json.loads(entry.record.read(file))
    return samples


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Grey JPEGs alone first, then what would surprise a reader that guesses types: clips, patients, colour, PNG."""
    plain = [make_item(index, (40 + index, 50)) for index in range(8)]
    rich: list[Item] = [
        make_item(20, patient="p", video="v", frame=0, probe="linear", spacing_mm=[0.1, 0.2], anatomy="lung"),
        make_item(21, (40, 50), "png", patient="p"),
        make_item(22, (40, 50, 3), "png", anatomy="doppler"),
        make_item(23, (40, 50), frame=3, video="v"),
    ]
    return write_corpus(tmp_path / "corpus", [plain, rich])


@pytest.fixture
def packed(tmp_path: Path, ultrasound_data: Path) -> Path:
    """180 real images as `arl shards pack` leaves them."""
    options = {"exclude": ("labels/*",)}
    pack_sources(
        tmp_path / "packed", source="folder", root=ultrasound_data / "c-trus", anatomy="abdominal", colour="grey",
        short_side=128, samples_per_shard=70, processes=1, options=options,
    )  # fmt: skip
    return tmp_path / "packed"


def check_webdataset(folder: Path, colour: str) -> int:
    """Run the README's snippet, with another decoder where the images have colour, and compare every sample."""
    code = snippet("import webdataset").replace(FOLDER, str(folder)).replace('"l8"', f'"{colour}"')
    variables: dict[str, Any] = {}
    exec(code, variables)  # noqa: S102 (the README's own code)
    expected = stored(folder)
    seen = set()
    for sample in variables["dataset"]:
        image, record = expected[sample["__key__"]]
        assert sample["record"] == record
        seen.add(sample["__key__"])
        if (image.ndim == 3) == (colour == "rgb8"):
            np.testing.assert_array_equal(sample["image"], image)
    assert seen == set(expected)
    return len(seen)


@pytest.mark.parametrize("colour", ["l8", "rgb8"])
def test_webdataset_reads_every_sample(mixed, colour):
    assert check_webdataset(mixed, colour) == 12


def test_webdataset_reads_what_packing_writes(packed):
    assert check_webdataset(packed, "l8") == 180


def test_a_shuffled_webdataset_still_has_every_sample(mixed):
    shards = sorted(str(path) for path in mixed.glob("shard-*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=2, seed=1).shuffle(10))
    assert len(samples) == len({sample["__key__"] for sample in samples}) == 12


# Run in a process of its own: whether `datasets` may use the network is settled when it is imported. Every other
# connection than that of a process with itself is refused for good measure.
OFFLINE = """
import hashlib, json, socket, sys
import numpy as np

def refuse(*_):
    raise OSError("the network is not to be used")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
code, cache, *folders = sys.argv[1:]
for folder in folders:
    for streaming in ("True", "False"):
        told = "cache_dir=cache, streaming=" + streaming
        variables = {"cache": cache}
        exec(code.replace("FOLDER", folder).replace("streaming=True", told), variables)
        for sample in variables["dataset"]:
            pixels = np.asarray(sample["jpg"] or sample["png"])
            digest = hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()
            print(json.dumps([folder, streaming, sample["__key__"], pixels.shape, digest, sample["json"]]))
"""


def run_datasets(tmp_path: Path, *folders: Path) -> list[Any]:
    code = snippet("load_dataset").replace(FOLDER, "FOLDER")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, code, str(tmp_path / "cache"), *map(str, folders)],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hugging_face_datasets_reads_every_sample_offline(tmp_path, mixed, packed):
    pytest.importorskip("datasets")
    lines = run_datasets(tmp_path, mixed, packed)
    for folder, count in ((mixed, 12), (packed, 180)):
        expected = stored(folder)
        for streaming in ("True", "False"):
            own = [line for line in lines if line[:2] == [str(folder), streaming]]
            assert sorted(line[2] for line in own) == sorted(expected)
            assert len(own) == count
            for _, _, key, shape, digest, record in own:
                image, stored_record = expected[key]
                assert record == stored_record
                assert tuple(shape) == image.shape
                assert digest == hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
