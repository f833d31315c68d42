import pytest
from made_set import words, write_set
from pyarrow import parquet

from arl_lightning.cli import main
from arl_lightning.downstream.command import PROTOCOLS, parse
from arl_lightning.downstream.experiment import run_recipe
from arl_lightning.downstream.training_list import training_list
from arl_lightning.errors import UserError


def test_the_list_names_the_training_files_of_the_runs_and_no_others(tmp_path):
    table = write_set(tmp_path / "set")
    run_recipe("knn", PROTOCOLS["knn"], parse("knn", words(table, tmp_path / "knn")), [].append)
    assert main(["tasks", "list", *words(table, tmp_path / "train.txt")]) == 0
    listed = (tmp_path / "train.txt").read_text().splitlines()
    rows = parquet.read_table(tmp_path / "knn/predictions.parquet").to_pylist()
    seen = {row["key"].removeprefix("images/") for row in rows}
    assert len(listed) == 28
    assert sorted([*listed, *seen]) == [f"{number:02d}.png" for number in range(48)]


def test_folds_leave_nothing_to_pack(tmp_path):
    with pytest.raises(UserError, match="--folds: every image is tested on once"):
        training_list(words(write_set(tmp_path / "set"), tmp_path / "train.txt", "--folds", "3"))
