"""The report of ranks: the same words, the same plan as training, at a small part of its weight."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml
from tiny_shards import write_shards

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.reader import ShardStream
from arl_lightning.data.tuning.ranks import Reading, ranks, reading_of, recipe_of
from arl_lightning.errors import UserError

SIZES = [8, 8, 8, 8, 6, 6, 4, 4]  # 52 samples: 2 ranks x 6 batches of 4, 4 left over


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", SIZES)


def as_rank(monkeypatch, rank: int) -> None:
    told = {"STEP_ID": 0, "JOB_ID": 20017, "STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 2, "PROCID": rank, "LOCALID": 0}
    told |= {"NODEID": rank, "STEP_NODELIST": "gpu[07-08]"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURMD_NODENAME", f"gpu0{7 + rank}")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)


def test_the_ranks_report_what_the_stream_of_training_reads(folder, monkeypatch):
    shards = Corpus.load([folder]).shards
    for rank in range(2):
        as_rank(monkeypatch, rank)
        told = json.loads(
            ranks(
                ["--data.shards", str(folder), "--data.batch_size=4", "--data.num_workers", "2", "--seed_everything=5"]
            )
        )
        stream = ShardStream(
            Corpus.load([folder]), lambda *_: None, batch_size=4, seed=5, rank=rank, world_size=2, num_workers=2
        )
        reads = {
            (shards[piece.shard].url, position)
            for worker in range(2)
            for piece in stream.plan.slot(0, rank, worker)
            for position in range(piece.start, piece.stop)
        }
        found = {
            (url, position)
            for url, runs in told["reads"].items()
            for start, stop in runs
            for position in range(start, stop)
        }
        assert found == reads
        assert len(found) == told["samples"] == 24
        assert (told["rank"], told["world_size"], told["batches"], told["workers"]) == (rank, 2, 6, 2)
        assert (told["host"], told["node_rank"], told["local_rank"]) == (f"gpu0{7 + rank}", rank, 0)
        assert told["rendezvous"] == "gpu07:15017"  # the first node; 15000 and the last digits of the job


def test_neither_torch_nor_what_brings_it_is_imported(folder):
    command = (
        "import sys\n"
        "from arl_lightning import cli\n"
        "command = cli.Command('data.tuning.ranks', 'ranks', 'say what each rank is', parses=True)\n"
        f"command.run('arl ranks', ['--data.shards', {str(folder)!r}, '--data.batch_size', '4'])\n"
        "heavy = {'torch', 'lightning', 'numpy', 'webdataset'} & set(sys.modules)\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(sorted(heavy), int(peak.split()[1]) // 1024)"
    )
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=outside, check=False)
    assert done.returncode == 0, done.stderr
    report, weighed = done.stdout.splitlines()
    assert json.loads(report)["samples"] == 52
    heavy, megabytes = weighed.rsplit(" ", 1)
    assert heavy == "[]"
    assert int(megabytes) < 100  # 64 of them in 16 GB would have 250 each; torch alone takes 300


def test_defaults_are_those_of_the_data_module():
    parameters = inspect.signature(PretrainingDataModule).parameters
    defaults = {field.name: field.default for field in fields(Reading) if field.name != "shards"}
    assert defaults == {name: parameters[name].default for name in defaults}


def test_later_words_count_and_groups_are_joined(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": {"batch_size": 32, "num_workers": 3}, "seed_everything": 7}))
    words = ["--data.batch_size", "1", "--config", str(recipe), "--data.shards", "[a, b]", "--data={num_workers: 0}"]
    assert reading_of(recipe_of(words)) == Reading(["a", "b"], batch_size=32, num_workers=0, seed=7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data.shards: missing; name the folder"),
        (["--data.shards", "x", "--data.batch_size", "0"], "data.batch_size 0: must be a whole number of at least 1"),
        (["--data.shards", "x", "--seed_everything", "true"], "seed_everything True: must be a whole number"),
        (["--data.shards"], "--data.shards: needs a value"),
        (["data.shards=x"], "data.shards=x: not a key; write --KEY VALUE"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--data.shards", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_used_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        ranks(words)
