"""The job scripts as such: they can be submitted in both ways, refuse early, and lay ranks out as they say."""

import json
import os
import shutil
import subprocess
import time
from collections import Counter

import pytest
from slurm_jobs import ROOT, SMALL, TINY, Job, call, scripts

from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.epoch import chunk_order

SPECS = {"SPECS": "shards/specs/hc18.yaml shards/specs/camus.yaml"}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    files = [f"slurm/{name}" for name in (*scripts(), "lib.sh", "cluster.env.example")] + ["tests/slurm/run.sh"]
    done = subprocess.run(["shellcheck", "-x", *files], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", scripts())
def test_a_script_can_be_submitted_by_sbatch_and_by_itself(script):
    for words in (["sbatch", "--test-only", *SMALL, f"slurm/{script}"], [f"slurm/{script}", "--test-only", *SMALL]):
        done = subprocess.run(
            [*words, "--", "--key", "a value"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **SPECS},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "to start at" in done.stderr


def test_a_script_submits_itself_from_anywhere_with_the_sites_settings(tmp_path):
    settings = tmp_path / "cluster.env"
    settings.write_text("SBATCH_PARTITION=no_such_partition\nCPU_OPTIONS=(--no-such-option)\n")
    environment = {**os.environ, **SPECS, "ARL_CLUSTER_ENV": str(settings)}
    for script, refused in (("pretrain_64gpu.sh", "invalid partition"), ("bench_shards.sh", "no-such-option")):
        done = subprocess.run(
            [ROOT / "slurm" / script, "--test-only"], capture_output=True, text=True, cwd=tmp_path, env=environment,
            check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert refused in done.stderr


def test_a_job_from_another_folder_says_so_in_one_line(submit, tmp_path, shared):
    log = shared / "elsewhere.log"
    said = subprocess.run(
        ["sbatch", *SMALL, "--nodes=1", "--ntasks-per-node=1", f"--output={log}", ROOT / "slurm/pretrain_1node.sh"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    job = Job(said.stdout.split()[-1], log)
    submit.jobs.append(job)
    assert job.wait(60) == "FAILED"
    told = f"{tmp_path}/slurm/lib.sh: missing; submit from the project's folder, or set ARL_ROOT to it"
    assert job.text.splitlines() == [f"arl: error: {told}"]


def test_64_ranks_on_8_nodes_cover_every_sample_once(submit, corpus):
    words = ["--data.shards", str(corpus), "--data.batch_size", "2", "--data.num_workers", "0"]
    job = submit("pretrain_64gpu.sh", words=words, ARL_RANK_REPORT="1")
    assert job.wait() == "COMPLETED", job.text
    reports = [json.loads(line) for line in job.text.splitlines() if line.startswith("{")]
    assert sorted(report["rank"] for report in reports) == list(range(64))
    assert sorted(Counter(report["host"] for report in reports).values()) == [8] * 8
    assert all(report["rank"] == 8 * report["node_rank"] + report["local_rank"] for report in reports)
    assert len({report["rendezvous"] for report in reports}) == 1
    shards = {shard.url: shard for shard in Corpus.load([corpus]).shards}
    read = Counter(
        (url, chunk_order(0, 0, shards[url], 0)[position])
        for report in reports
        for url, runs in report["reads"].items()
        for start, stop in runs
        for position in range(start, stop)
    )
    assert read == Counter({(url, record): 1 for url, shard in shards.items() for record in range(shard.num_samples)})


def test_missing_shards_are_refused_before_any_rank_starts(submit, shared):
    begun = time.monotonic()
    words = [*TINY, "--data.shards", str(shared / "nowhere"), "--run.folder", str(shared / "refused")]
    job = submit("pretrain_64gpu.sh", "--nodes=2", "--ntasks-per-node=2", words=words)
    assert job.wait() == "FAILED"
    assert job.told()["ExitCode"] == "2:0"
    refused = [line for line in job.text.splitlines() if line.startswith("arl: error: ")]
    assert len(refused) == 1
    assert f"{shared / 'nowhere'}: no such folder" in refused[0]
    assert "refused before anything was started" in job.text.splitlines()[-1]
    assert call("squeue", "--noheader", "--steps", "--jobs", job.number) == ""
    assert not (shared / "refused").exists()
    assert time.monotonic() - begun < 60  # of which Python's imports take most, on a busy machine


def test_packed_in_an_array_merged_and_verified(submit, shared):
    data, specs = shared / "data", []
    for name, anatomy in (("left", "breast"), ("right", "thyroid")):
        pictures(data / name, 6, anatomy)
        spec = shared / f"{name}.yaml"
        spec.write_text(f"source: folder\nfolder: {name}\nanatomy: {anatomy}\noptions: {{name: {name}}}\n")
        specs.append(str(spec))
    out = shared / "packed"
    environment = {"SPECS": " ".join(specs), "DATA": str(data), "OUT": str(out), "FREE_GB": "0"}
    array = submit("pack_shards.sh", by_itself=True, words=["--samples_per_shard", "4"], **environment)
    follower = submit.follower_of(array, "merge_shards")
    assert [task.wait() for task in submit.tasks(array)] == ["COMPLETED"] * 2
    assert follower.wait() == "COMPLETED", follower.text
    assert Manifest.load(out).sources == {"left": 6, "right": 6}
    assert "12" in follower.text
    assert follower.text.splitlines()[-1].startswith(f"job {follower.number}: done")


def pictures(folder, number: int, seed: str) -> None:
    import cv2
    import numpy as np

    folder.mkdir(parents=True)
    draw = np.random.default_rng(len(seed))
    for index in range(number):
        cv2.imwrite(str(folder / f"{index}.png"), draw.integers(0, 256, (40, 40), np.uint8))


def test_the_stream_is_benchmarked(submit, corpus, shared):
    words = [str(corpus), "--workers", "0", "--prefetch", "2", "--seconds", "0.3", "--num_images", "16"]
    words += ["--batch_size", "4", "--rounds", "1", "--out", str(shared / "bench")]
    job = submit("bench_shards.sh", words=words)
    assert job.wait() == "COMPLETED", job.text
    assert (shared / "bench/bench.csv").stat().st_size > 0
    assert "img/s" in job.text
