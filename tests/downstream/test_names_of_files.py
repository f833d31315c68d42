import json
import os
from pathlib import Path

import numpy as np
import pytest
from made_set import WORDS
from PIL import Image
from pyarrow import parquet

from arl_lightning.cli import main
from arl_lightning.downstream import experiment

SIZE = ["--split.test", "6", "--split.val", "4"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Classes, patients and files whose names are Latin-1, which is no valid UTF-8."""
    draw = np.random.default_rng(0)
    for number in range(24):
        bright = number % 2
        names = [b"hell" if bright else b"d\xfcster", b"M\xfcller%d" % (number % 12), b"%d_b\xf6se.png" % number]
        path = tmp_path.joinpath("set", *map(os.fsdecode, names))
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 100, (40, 48)) + 100 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "set"


def test_a_set_whose_names_are_not_unicode_is_checked_scored_and_written(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "NUM_RESAMPLES", 20)
    assert main(["tasks", "check", "custom", "--root", str(root)]) == 0
    assert "d\\udcfcster" in capsys.readouterr().out
    out = tmp_path / "out"
    given = ["--root", str(root), "--out", str(out), "--neighbours.k", "3", "--folds", "2", *WORDS, *SIZE]
    assert main(["knn", "custom", *given]) == 0, capsys.readouterr().err
    rows = [row for fold in "01" for row in parquet.read_table(out / f"fold_{fold}/predictions.parquet").to_pylist()]
    tested = {row["key"]: row for row in rows if row["part"] == "test"}
    assert len(tested) == 24
    row = tested["d\\udcfcster/M\\udcfcller0/0_b\\udcf6se.png"]
    assert (row["patient"], row["label"]) == ("M\\udcfcller0", "d\\udcfcster")
    assert row["prob_d\\udcfcster"] + row["prob_hell"] == pytest.approx(1)
    assert json.loads((out / "summary.json").read_text())
