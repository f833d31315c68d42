import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STREAM = Path(__file__).parents[1] / "benchmarks/stream.py"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the benchmark reads Linux' CPU clocks of processes")
def test_the_stream_benchmark_prints_its_three_rates_and_both_ratios():
    tiny = ["--num_images", "8", "--batch_size", "4", "--rounds", "1", "--batches_per_round", "2"]
    command = [sys.executable, str(STREAM), *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rates = {}
    for name in ("raw decode, grey", "ours, 1 worker", "usual, 1 worker"):
        cpu, clock = re.search(rf"^{name} +([\d,]+) +([\d,]+)$", done.stdout, re.MULTILINE).groups()
        rates[name] = float(cpu.replace(",", ""))
        assert rates[name] > 0
        assert float(clock.replace(",", "")) > 0
    ratios = dict(re.findall(r"^ours / (raw|usual) +([\d.]+)", done.stdout, re.MULTILINE))
    for name, other in (("raw", "raw decode, grey"), ("usual", "usual, 1 worker")):
        assert float(ratios[name]) == pytest.approx(rates["ours, 1 worker"] / rates[other], abs=0.02)
    size = re.match(r"8 grey files, (\d+) kB, median 503 x 656\n", done.stdout)
    assert 90 < int(size[1]) < 126


def test_real_images_are_scaled_to_the_benchmarks_size(tmp_path, ultrasound_data, monkeypatch):
    monkeypatch.syspath_prepend(STREAM.parent)
    import stream

    stream.make_corpus(tmp_path, ultrasound_data / "busi", 8, 108.0)
    encoded = list(stream.read_images(tmp_path))
    assert len(encoded) == 8
    assert stream.describe(encoded).endswith("median 503 x 656")
    assert 80_000 < sum(map(len, encoded)) / 8 < 140_000


def test_the_packing_benchmark_prints_its_rates_and_the_plans_memory():
    command = [sys.executable, str(STREAM.with_name("packing.py")), "--num_images", "20", "--rounds", "1"]
    done = subprocess.run([*command, "--num_planned", "5000"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (float(rate) for rate in re.findall(r"process(?:es)?: ([\d,]+) img/s", done.stdout))
    assert float(re.search(r"two / one: ([\d.]+)", done.stdout)[1]) == pytest.approx(two / one, rel=0.1)
    assert 0.05 < float(re.search(r"planned 5,000 images in \d+ s, ([\d.]+) GB", done.stdout)[1]) < 1
