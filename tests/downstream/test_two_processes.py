import json
import os
import subprocess
import sys

import pytest
from made_set import words, write_set
from pyarrow import parquet

DDP = ["--devices.devices", "2", "--devices.strategy", "ddp", "--loading.batch_size", "4"]


@pytest.mark.parametrize("protocol", ["finetune", "segment"])
def test_two_processes_train_together_and_every_test_case_counts_once(tmp_path, protocol):
    table = write_set(tmp_path / "set")
    more = ["--options.structures", "square", "--decoder.channels", "16"] if protocol == "segment" else []
    command = [sys.executable, "-m", "arl_lightning.cli", protocol, *words(table, tmp_path / "run", *DDP, *more)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["extra"]["world_size"] == 2
    rows = parquet.read_table(tmp_path / "run/predictions.parquet").to_pylist()
    keys = [row["key"] for row in rows if row.get("part", "test") == "test"]
    assert len(keys) == len(set(keys)) == 12
    assert done.stdout.count("protocol        ") == done.stdout.count("results         ") == 1  # the first rank speaks
