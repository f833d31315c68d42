import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCALING = Path(__file__).parents[1] / "benchmarks/scaling.py"
TINY = """
model:
  encoder: {name: avit_tiny_patch8_224, image_size: 32}
  decoder: {depth: 1, dim: 32, num_heads: 2}
  adversarial: {width: 8}
  self_distillation: {num_prototypes: 16, hidden_dim: 16, bottleneck_dim: 8}
data: {shards: replaced, batch_size: 2, num_workers: 0, num_local_views: 1, local_size: 16}
"""


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(SCALING.parent)
    import scaling

    return scaling


def test_efficiency_is_the_median_over_rounds_of_each_rounds_ratio(scaling, tmp_path):
    one = [scaling.Round(seconds, 0.0, 0.1) for seconds in (2.0, 9.0, 2.0)]
    two = [scaling.Round(seconds, 0.2, 0.1) for seconds in (2.5, 10.0, 4.0)]  # 0.8, 0.9 and 0.5
    report = scaling.Report("tiny", "phantoms", 16, 6, one, two)
    assert report.efficiency == pytest.approx(0.8)
    assert re.search(r"^two processes +4\.000 +20\.0% +10\.0%$", str(report), re.MULTILINE)
    report.save(tmp_path)
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert kept["two"][1] == {"step_seconds": 10.0, "communication_share": 0.2, "data_wait_share": 0.1}
    assert kept["efficiency"] == report.efficiency


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes take two cores")
def test_one_process_and_two_take_turns(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    arl = Path(sys.executable).with_name("arl")
    size = ["--num_samples", "24", "--samples_per_shard", "8"]
    pack = [str(arl), "shards", "pack", "--source", "phantom", *size, "--out", str(tmp_path / "shards")]
    subprocess.run(pack, check=True, capture_output=True, timeout=300)
    cores = sorted(os.sched_getaffinity(0))[:2]
    options = ["--recipe", str(tmp_path / "tiny.yaml"), "--shards", str(tmp_path / "shards"), "--cores", str(cores)]
    command = [sys.executable, str(SCALING), *options, "--rounds", "1", "--steps", "2", "--settle", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "results")], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").glob("scaling-*.json")
    kept = json.loads(path.read_text())
    (one,), (two,) = kept["one"], kept["two"]
    assert kept["batch_size"] == 2
    assert kept["efficiency"] == pytest.approx(one["step_seconds"] / two["step_seconds"])
    assert one["communication_share"] == 0 < two["communication_share"] < 1
    assert str(tmp_path) not in path.read_text()
