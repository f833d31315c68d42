import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from tiny_arl import TINY_WORDS, tiny_arl
from tiny_shards import write_shards

from arl_lightning.cli import main
from arl_lightning.data.wording import human_size
from arl_lightning.errors import UserError
from arl_lightning.pretraining import allocation
from arl_lightning.pretraining.allocation import Allocation, Ranks, asked_for
from arl_lightning.pretraining.command import pretrain
from arl_lightning.pretraining.preflight import command as module
from arl_lightning.pretraining.preflight import disk
from arl_lightning.pretraining.preflight.command import preflight
from arl_lightning.pretraining.preflight.disk import checkpoint_bytes, checkpoints_at_once

Usage = namedtuple("Usage", "total used free")

TINY = (*TINY_WORDS, "--trainer.max_steps=2")
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "pretrain",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NODELIST": "node[0-1]",
    "SLURM_CPUS_ON_NODE": "8",
    "SLURM_MEM_PER_NODE": "16000",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    """Leave aside a job that these tests themselves may run in."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES")):
            monkeypatch.delenv(name)


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards", [6, 6, 6, 6])


@pytest.fixture
def check(tmp_path, shards):
    """Look at a recipe on four shards; returns the lines, by their first word."""

    def run(*more: str) -> dict[str, str]:
        lines: list[str] = []
        preflight([f"--run.folder={tmp_path / 'run'}", f"--data.shards={shards}", *TINY, *more], lines.append)
        return {line[:16].rstrip(): line[16:] for line in lines}

    return run


def refused(check, *more: str) -> str:
    with pytest.raises(UserError) as caught:
        check(*more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def trained(tmp_path, shards):
    """A run of two steps, whose checkpoint is returned."""
    pretrain([f"--run.folder={tmp_path / 'run'}", f"--data.shards={shards}", *TINY], lambda line: None)
    return tmp_path / "run/checkpoints/last.ckpt"


def test_a_run_that_can_start_is_told_with_its_numbers(check, tmp_path):
    said = check("--cores=2")
    assert said["ranks"] == "1 node x 1 on CPUs = 1"
    assert said["here"] == "no job: this machine with 2 cores"
    assert said["shards"] == "24 images in 4 shards, all there with their sizes; every anatomy is known"
    assert said["loading"] == "4.00 shards a worker (1 rank x 1 worker); an epoch is 6 x 4 images"
    assert said["begins"] == f"at step 0 in {tmp_path / 'run'}"
    assert said["disk"].split(" free")[0].split(":")[0].endswith("2 at one time")
    assert said["verdict"] == "nothing is in the way of this run"
    assert not (tmp_path / "run").exists()


def test_a_batch_script_neither_waits_for_ranks_nor_needs_srun(tmp_path, shards):
    words = [
        f"--run.folder={tmp_path / 'run'}",
        f"--data.shards={shards}",
        *TINY,
        "--model.encoder.name=avit_tiny_patch16_224",
    ]
    words += ["--trainer.num_nodes=2", "--trainer.devices=2", "--trainer.strategy=ddp", "--ckpt_path=last"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | BATCH_SCRIPT
    command = [sys.executable, "-m", "arl_lightning.cli", "preflight", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ranks           2 nodes x 2 on CPUs = 4\n" in done.stdout
    assert "here            job 4711: 2 nodes, each with 2 tasks, 8 cores, 16.78 GB\n" in done.stdout
    assert "loading         1.00 shards a worker (4 ranks x 1 worker); an epoch is 1 x 16 images\n" in done.stdout
    assert done.stdout.endswith("verdict         nothing is in the way of this run\n")


def test_a_refusal_ends_with_status_2_and_one_line(check, monkeypatch, capsys, tmp_path, shards):
    for name, value in BATCH_SCRIPT.items():
        monkeypatch.setenv(name, value)
    words = [f"--run.folder={tmp_path}", f"--data.shards={shards}", *TINY, "--trainer.num_nodes=2"]
    assert main(["preflight", *words, "--trainer.devices=4"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "arl: error: trainer.devices 4: job 4711 has 2 tasks a node, one for each rank; use --trainer.devices 2, or"
        " sbatch --ntasks-per-node 4\n"
    )
    assert said.out.startswith("recipe          avit_tiny_patch8_224 at 32 px, 2 steps, strategy ")
    assert main(["preflight", *words, "--trainer.devices=2"]) == 0
    assert "verdict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "environment", "line"),
    [
        (
            ["--trainer.num_nodes=2"],
            {"MASTER_ADDR": "localhost"},
            "MASTER_ADDR: localhost is another machine on each of 2 nodes, and all would wait for ever; unset it,"
            " Slurm's first node is taken",
        ),
        (
            ["--trainer.num_nodes=3", "--trainer.devices=2"],
            BATCH_SCRIPT,
            "trainer.num_nodes 3: job 4711 has 2 (SLURM_NNODES); use --trainer.num_nodes 2, or sbatch --nodes 3",
        ),
        (
            ["--trainer.num_nodes=2", "--trainer.devices=8", "--trainer.accelerator=cuda"],
            BATCH_SCRIPT | {"SLURM_NTASKS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "4"},
            "trainer.devices 8: this node has 4 GPUs (SLURM_GPUS_ON_NODE); use --trainer.devices 4, or sbatch"
            " --gpus-per-node 8",
        ),
        (
            ["--trainer.num_nodes=2", "--trainer.devices=2", "--trainer.accelerator=cuda"],
            BATCH_SCRIPT,
            "trainer.accelerator cuda: job 4711 was given no GPUs; use sbatch --gpus-per-node 2, or set"
            " CUDA_VISIBLE_DEVICES where Slurm does not hand them out",
        ),
        (
            ["--trainer.devices=2", "--trainer.accelerator=cuda"],
            {"CUDA_VISIBLE_DEVICES": "1"},
            "trainer.devices 2: this node has 1 GPUs (CUDA_VISIBLE_DEVICES); use --trainer.devices 1, or sbatch"
            " --gpus-per-node 2",
        ),
        (
            ["--trainer.num_nodes=2", "--trainer.devices=2"],
            {**BATCH_SCRIPT, "SLURM_NTASKS_PER_NODE": ""},
            "trainer.devices 2: job 4711 does not say how many tasks a node has (SLURM_NTASKS_PER_NODE); use sbatch"
            " --ntasks-per-node 2, or 1 with torchrun",
        ),
        (
            ["--trainer.num_nodes=2", "--trainer.devices=3"],
            {**BATCH_SCRIPT, "SLURM_JOB_NAME": "interactive"},
            "trainer.devices 3: job 4711 has 2 tasks a node, one for each rank; use --trainer.devices 2, or sbatch"
            " --ntasks-per-node 3",
        ),
        (["--trainer.devices=abc"], {}, "trainer.devices abc: must be the number of processes on CPUs"),
        (
            ["--data.num_workers=4", "--trainer.devices=2"],
            {},
            "4 shards for 2 ranks x 4 workers: use --data.num_workers 2 at most or pack at least 8 shards (arl shards"
            " pack --samples_per_shard 3)",
        ),
        (["--data.batch_size=32"], {}, "24 samples for 1 ranks x batches of 32: use --data.batch_size 24 at most"),
        (["--memory=1e-6"], {}, None),
        (
            ["--model.anatomies=[liver]"],
            {},
            "data.shards: anatomy 'breast' is not in the vocabulary: choose one of liver, other; or add it to"
            " model.anatomies",
        ),
        (["--cores=two"], {}, None),
        (["--cores=0"], {}, "--cores 0: must be above 0"),
        (["--data.local_size=12"], {}, "data.local_size: 12 is not divisible by the patch size 8"),
        (["--trainer.max_steps=-1"], {}, "trainer.max_steps: must be set, as the stream of images has no end"),
        (["--model.encoder.nmae=x"], {}, None),
        (
            ["--trainer.strategy=fsdp"],
            {},
            "trainer.strategy: fsdp does not synchronise gradients of a loss built of several networks' calls"
            " (Lightning issues 19626, 19685); use fsdp2",
        ),
        (["--trainer.strategy=lightning.pytorch.strategies.FSDPStrategy"], {}, None),
        (
            ["--distributed.cpu_offload=true", "--trainer.strategy=ddp", "--trainer.accelerator=cuda"],
            {},
            "distributed.cpu_offload: needs sharded weights; set trainer.strategy to fsdp2 or hsdp",
        ),
        (["--ckpt_path=gone.ckpt"], {}, "gone.ckpt: no such checkpoint"),
    ],
)
def test_what_the_recipe_and_the_job_do_not_agree_on_is_refused(check, monkeypatch, words, environment, line):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = refused(check, *words)
    if line is None:
        key = words[0].partition("=")[0].removeprefix("--")
        assert key in said
    else:
        assert said == line


def test_ranks_that_srun_does_not_start_are_told_and_pass(check, monkeypatch):
    words = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    job = {name: BATCH_SCRIPT[name] for name in ("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE")} | {"SLURM_NNODES": "1"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    said = check(*words)["ranks"]
    assert said == (
        "1 node x 2 on CPUs = 2; srun would start 1 task a node: start them by torchrun, or on one node by"
        " `arl pretrain` without srun"
    )
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert check(*words)["ranks"] == said
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
    assert check(*words)["ranks"] == said
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert check(*words)["ranks"] == "1 node x 2 on CPUs = 2"


def test_gpus_that_are_not_known_are_said_to_be(check, monkeypatch, tmp_path):
    monkeypatch.setattr(allocation, "DRIVER", tmp_path / "none")
    gpu = ["--trainer.accelerator=cuda", "--trainer.devices=1"]
    assert check(*gpu)["GPUs"] == "not known here, not judged"
    assert "GPUs" not in check()
    for number in range(2):
        (tmp_path / f"driver/{number}").mkdir(parents=True)
    monkeypatch.setattr(allocation, "DRIVER", tmp_path / "driver")
    said = check(*gpu)
    assert "GPUs" not in said
    assert said["here"].endswith(", 2 GPUs")


def test_a_cache_is_judged_and_not_made(check, shards, monkeypatch, tmp_path):
    cache = tmp_path / "scratch/cache"
    words = [f"--data.cache_folder={cache}"]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(9e9, 4e9, 5_000_000_000))
    files = sorted(shards.glob("*.tar"))
    needed = human_size(sum(file.stat().st_size for file in files))
    assert check(*words)["cache"] == f"{cache}: {needed} still to be copied, 5.0 GB are free"
    assert not cache.parent.exists()
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(1e4, 1e4, 10_000))
    assert refused(check, *words) == (
        f"data.cache_folder {cache}: 10.0 kB are free and {needed} of shards are still to be copied; make room, choose"
        " another folder, or leave the option out"
    )


def test_memory_that_batches_do_not_fit_is_refused_with_what_would(check):
    assert re.fullmatch(r"--memory 1e-06: batches need 0\.\d\d GB: give 1 GB", refused(check, "--memory=1e-6"))


def test_missing_shards_are_refused_by_name(check, shards, tmp_path):
    shard = shards / "shard-000002.tar"
    size = shard.stat().st_size
    with shard.open("ab") as file:
        file.write(b"more")
    again = "copy them again, or pack again"
    said = f"{shard}: {size + 4} bytes where the manifest says {size}, 1 of 4 shards differ; {again}"
    assert refused(check) == said
    shard.unlink()
    assert refused(check) == f"{shard}: missing, 1 of 4 shards are; {again}"
    (shards / "manifest.json").write_text(json.dumps({}))
    assert refused(check).startswith(f"{shards / 'manifest.json'}: ")
    shutil.rmtree(shards)
    said = f"{shards}: no such folder; pack shards into it with `arl shards pack --out {shards}`"
    assert refused(check) == said


def test_a_folder_that_holds_a_run_is_refused_and_a_finished_one_is_told(check, trained):
    said = f"{trained}: this folder holds a run; go on with --ckpt_path last, or choose another --run.folder"
    assert refused(check) == said
    done = check("--ckpt_path=last")
    assert done["goes on"] == f"from {trained}, step 2 of 2; it fits this recipe"
    assert done["verdict"] == "all 2 steps are done; another --run.folder starts a new run"
    assert "disk" not in done
    further = check("--ckpt_path=last", "--trainer.max_steps=5")
    assert further["goes on"] == f"from {trained}, step 2 of 5; it fits this recipe"
    assert further["verdict"] == "nothing is in the way of this run"


def test_a_checkpoint_that_the_recipe_cannot_go_on_from_is_refused(check, trained):
    resume = ["--ckpt_path=last", "--trainer.max_steps=5"]
    assert refused(check, *resume, "--model.decoder.depth=2") == (
        f"{trained}: model.decoder.depth: the checkpoint has 1, this run 2; resume with the former, or start a new run"
    )
    assert refused(check, *resume, "--seed_everything=7") == (
        f"{trained}: data.seed: the checkpoint was written with 0, this run has 7; resume with the former, or start a"
        " new run"
    )
    assert check(*resume, "--data.batch_size=2")["verdict"] == "nothing is in the way of this run"
    content = trained.read_bytes()
    place = trained.resolve()
    place.write_bytes(content[: len(content) // 2])
    assert refused(check, *resume).startswith(f"{trained}: ")
    place.write_bytes(content)
    saved = torch.load(place, weights_only=True)
    del saved["PretrainingDataModule"]
    torch.save(saved, place)
    assert refused(check, *resume) == (
        f"{trained}: does not say how far it is in the data, so it is of another version; start a new run"
    )
    torch.save({"state_dict": {}, "global_step": 1}, place)
    assert refused(check, *resume) == f"{trained}: not a checkpoint of `arl pretrain`"


def test_a_run_folder_that_cannot_be_written_is_refused(check, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(check, f"--run.folder={tmp_path / 'file/run'}")
    assert said == (
        f"run.folder {tmp_path / 'file/run'}: {tmp_path / 'file'} cannot be written (Not a directory); choose another"
        " --run.folder"
    )


def test_a_disk_without_room_for_the_checkpoints_is_refused_with_their_size(check, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "checkpoint_bytes", lambda *_: 3_000_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(9e9, 4e9, 5_000_000_000))
    assert refused(check, "--cores=2") == (
        f"run.folder {tmp_path / 'run'}: 5.0 GB are free; checkpoints of 3.0 GB, 2 at one time: 6.0 GB more; make room,"
        " lower run.keep, or choose another --run.folder"
    )
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with (tmp_path / "run/checkpoints/step-0000001.ckpt").open("wb") as file:
        file.truncate(2_000_000_000)  # what it takes will make room for the next
    assert check()["disk"] == "checkpoints of 3.0 GB, 2 at one time: 4.0 GB more, 5.0 GB are free"


def test_shared_memory_too_small_for_the_workers_is_refused(check, monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(64e6, 64e6, 10_000))
    # 2 workers x (2 + 1) batches x 4 images x (2 x 32 x 32 + 16 x 16) bytes
    assert refused(check, "--data.num_workers=2") == (
        f"{module.SHARED_MEMORY}: 10.0 kB are free and workers need 55.3 kB; give the container more (--shm-size), or"
        " lower data.num_workers, data.prefetch_factor or data.batch_size"
    )


def test_workers_that_feed_less_than_a_measured_rate_are_refused_and_than_an_assumed_one_told(check):
    gpus = ["--trainer.accelerator=cuda", "--trainer.devices=1", "--data.num_workers=1", "--cores=4"]
    said = refused(check, *gpus, "--images_per_second_per_gpu=1e7")
    assert re.match(
        r"--data.num_workers 1: give [\d,]+ img/s where a GPU takes 10,000,000: use --data.num_workers", said
    )
    assert re.match(
        r"a core gives [\d,]+ img/s, a GPU takes 1: ", check(*gpus, "--images_per_second_per_gpu=1")["feeding"]
    )
    told = check(*gpus, "--cores=1")["feeding"]
    assert told.startswith("may starve: --cores 1: 1 GPUs need 2, ")
    assert "assumed 300 img/s" in told


def test_no_trainer_is_built(check, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a trainer looks for its cluster and its devices")

    monkeypatch.setattr(LightningCLI, "instantiate_trainer", never)
    assert check()["verdict"]


def test_a_checkpoints_size_is_that_of_its_tensors(trained):
    saved = torch.load(trained, weights_only=True)
    tensors = list(saved["state_dict"].values())
    for state in saved["optimizer_states"][0]["state"].values():
        tensors += [state["exp_avg"], state["exp_avg_sq"]]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    recipe = tiny_arl(adversarial={"start_share": 0.0}).recipe
    assert held == checkpoint_bytes(type(tiny_arl())(**recipe), "32-true")
    assert 2 * held == checkpoint_bytes(type(tiny_arl())(**recipe), "64-true")


def test_checkpoints_that_are_kept_and_one_in_the_making_are_counted():
    assert checkpoints_at_once(3, 100, 1000) == 4
    assert checkpoints_at_once(0, 300, 1000) == 5  # at 300, 600, 900 and 1000


@pytest.mark.parametrize(
    ("accelerator", "devices", "gpus", "count"),
    [
        ("cpu", "auto", 4, 1),
        ("cpu", 3, None, 3),
        ("cuda", "auto", 4, 4),
        ("gpu", -1, 8, 8),
        ("cuda", "-1", 8, 8),
        ("cuda", "2", 8, 2),
        ("cuda", "0,3,5", 8, 3),
        ("cuda", [1, 2], 8, 2),
        ("cuda", [2], 8, 1),
        ("cuda", "2,", 8, 1),
    ],
)
def test_devices_are_counted_as_lightning_does(accelerator, devices, gpus, count):
    assert asked_for(accelerator, devices, 2, gpus) == Ranks(accelerator, 2, count)
    assert asked_for(accelerator, devices, 2, gpus).world_size == 2 * count


def test_devices_that_cannot_be_counted_are_refused():
    with pytest.raises(UserError, match=r"trainer\.devices auto: this machine's GPUs are not known here"):
        asked_for("cuda", "auto", 1, None)
    with pytest.raises(UserError, match=r"trainer\.devices auto, trainer\.num_nodes 1: both must be at least 1"):
        asked_for("cuda", "auto", 1, 0)


@pytest.mark.parametrize("devices", ["abc", "-2", -2, "0,x", [], ["a"], "1,1", [0, 0], "2.0", ","])
def test_devices_that_lightning_does_not_take_are_refused(devices):
    with pytest.raises(UserError, match=r"trainer\.devices .*: must be a number, a list of different GPUs"):
        asked_for("cuda", devices, 1, 8)


@pytest.mark.parametrize("devices", [-1, "-1", [0, 1], "0,1", "abc"])
def test_processes_on_cpus_are_a_number(devices):
    with pytest.raises(UserError, match=r"trainer\.devices .*: must be the number of processes on CPUs"):
        asked_for("cpu", devices, 1, None)


@pytest.mark.parametrize(
    ("environment", "gpus", "by"),
    [
        ({"SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_GPUS": "0,1"}, 4, "SLURM_GPUS_ON_NODE"),
        ({"SLURM_GPUS_ON_NODE": "0"}, 0, "SLURM_GPUS_ON_NODE"),
        ({"SLURM_GPUS_PER_NODE": "8"}, 8, "SLURM_GPUS_PER_NODE"),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, 4, "SLURM_GPUS_PER_NODE"),
        ({"SLURM_GPUS_PER_NODE": "a100:4,v100:2"}, 6, "SLURM_GPUS_PER_NODE"),
        ({"SLURM_JOB_GPUS": "0,2-4"}, 4, "SLURM_JOB_GPUS"),
        ({"SLURM_STEP_GPUS": "3"}, 1, "SLURM_STEP_GPUS"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1f0c,MIG-22"}, 2, "CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1, "CUDA_VISIBLE_DEVICES"),  # CUDA stops at -1
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, "CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, "CUDA_VISIBLE_DEVICES"),
        ({}, None, ""),
    ],
)
def test_gpus_are_what_slurm_says_and_else_what_cuda_is_shown(environment, gpus, by):
    found = Allocation.found(BATCH_SCRIPT | environment)
    assert (found.gpus, found.gpus_by) == (gpus, by)


def test_an_allocation_is_read_from_slurms_words():
    found = Allocation.found(BATCH_SCRIPT)
    assert found == Allocation("4711", 2, 2, 8, None, "", pytest.approx(16000 * 1024**2 / 1e9), None)
    by_core = BATCH_SCRIPT | {"SLURM_MEM_PER_NODE": "0", "SLURM_MEM_PER_CPU": "1000", "SLURM_GPUS_ON_NODE": "4"}
    found = Allocation.found(by_core, cores=6)
    assert (found.cores, found.gpus, found.memory_gb) == (6, 4, pytest.approx(8 * 1000 * 1024**2 / 1e9))
