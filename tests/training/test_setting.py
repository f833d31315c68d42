import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_arl import Around, fit, random_batch, tiny_arl, tiny_encoder

import arl_lightning
from arl_lightning.training.host import Process, git_state
from arl_lightning.training.setting import GIB, Setting, gather_setting, host_list, ranges
from arl_lightning.training.start_report import StartReport

SOFTWARE = (("arl_lightning", "1.0"), ("torch", "2.14.1"), ("NCCL", "2.28.3"))


def process(host: str, cores: tuple[int, ...] = (0, 1, 2, 3), **changes: Any) -> Process:
    present = Process(host, "10.0.0.7", "ib0", "NVIDIA H100 80GB HBM3", 79 * GIB, cores, SOFTWARE)
    return dataclasses.replace(present, **changes)


def setting(*processes: Process, num_workers: int = 3, **changes: Any) -> Setting:
    present = Setting(processes, num_workers, "nccl", None, "4711", 0, "3ff1856", "2026-11-25 23:47:02 UTC")
    return dataclasses.replace(present, **changes)


def cluster(num_nodes: int = 8, ranks: int = 8) -> list[Process]:
    return [
        process(f"gpu{node:02}", tuple(range(4 * rank, 4 * rank + 4)))
        for node in range(1, num_nodes + 1)
        for rank in range(ranks)
    ]


def test_64_ranks_take_as_many_lines_as_one_node():
    assert setting(*cluster(), restarts=2).lines() == [
        "nodes           8 nodes x 8 ranks on NVIDIA H100 80GB HBM3 of 79 GiB: gpu[01-08]",
        "cores           4 for each rank; 3 loader workers",
        "network         nccl, interface of its own choice, the hosts' names are on ib0",
        "Slurm           job 4711, started again 2 times",
        "software        arl_lightning 1.0, torch 2.14.1, NCCL 2.28.3",
        "code            3ff1856",
        "started         2026-11-25 23:47:02 UTC",
    ]


def test_a_node_unlike_the_others_has_a_line_of_its_own():
    odd = [process("old3", (rank,), device="Tesla V100", memory=32 * GIB) for rank in range(2)]
    lines = setting(*cluster(2, 2), *odd, interface="ib0", job=None, git=None).lines()
    assert lines[:4] == [
        "nodes           2 nodes x 2 ranks on NVIDIA H100 80GB HBM3 of 79 GiB: gpu[01-02]",
        "nodes           1 node x 2 ranks on Tesla V100 of 32 GiB: old3",
        "cores           1 to 4 for each rank; 3 loader workers",
        "network         nccl, ib0",
    ]
    assert "code            not a git checkout" in lines


def test_one_process_names_no_network():
    lines = setting(process("laptop"), backend=None, job=None).lines()
    assert not any(line.startswith(("network", "Slurm")) for line in lines)


def test_enough_cores_bring_no_warning():
    assert setting(*cluster()).warnings() == []


def test_ranks_on_the_same_cores_are_warned_about():
    # Each of the first two has a half of four cores, though either is allowed as many as it needs.
    crowded = setting(process("gpu1"), process("gpu1"), process("gpu1", (4, 5, 6, 7)), process("gpu2"))
    (warning,) = crowded.warnings()
    assert warning.startswith("2 ranks with too few cores: rank 0 on gpu1 has 2 for one process and 3 loader workers;")
    assert "--cpus-per-task=4" in warning
    assert "cores           4 for each rank, shared with other ranks: 2 each; 3 loader workers" in crowded.lines()


def test_unbound_ranks_share_what_is_enough_for_all():
    unbound = [process("node", tuple(range(8)))] * 2
    assert setting(*unbound).warnings() == []
    (warning,) = setting(*unbound, num_workers=4).warnings()
    assert warning.startswith("2 ranks with too few cores: rank 0 on node has 4 for")


def test_other_software_on_a_node_is_named():
    other = process("gpu09", (0, 1, 2, 3), software=(("arl_lightning", "1.0"), ("torch", "2.13.0")))
    (warning,) = setting(*cluster(1, 2), other).warnings()
    assert warning == (
        "rank 2 on gpu09 runs torch 2.13.0 instead of 2.14.1, NCCL None instead of 2.28.3; use one environment on all"
        " nodes"
    )


@pytest.mark.parametrize(
    ("num_nodes", "changes", "warned"),
    [
        (2, {"backend": "gloo"}, True),
        (2, {"backend": "gloo", "interface": "eth0"}, False),
        (2, {"backend": "nccl"}, False),
        (1, {"backend": "gloo"}, False),
    ],
)
def test_a_node_that_others_cannot_find_is_named(num_nodes, changes, warned):
    processes = [process(f"n{node}", address="127.0.1.1") for node in range(1, num_nodes + 1)]
    warnings = setting(*processes, **changes).warnings()
    assert [warning.startswith("n[1-2]: ") and "GLOO_SOCKET_IFNAME" in warning for warning in warnings] == [
        True
    ] * warned


def test_plain_values_load_without_unpickling_code(tmp_path):
    torch.save(setting(*cluster(1, 2)).plain(), tmp_path / "setting.pt")
    plain = torch.load(tmp_path / "setting.pt", weights_only=True)
    assert plain["job"] == "4711"
    assert plain["processes"][1]["cores"] == "4-7"
    assert plain["processes"][1]["software"] == dict(SOFTWARE)


def test_what_is_found_here_is_so(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    found = gather_setting(torch.device("cpu"), num_workers=2)
    (here,) = found.processes
    assert set(here.cores) == os.sched_getaffinity(0)
    assert dict(here.software)["torch"] == torch.__version__
    assert dict(here.software)["arl_lightning"] == arl_lightning.__version__
    assert here.memory > 0
    assert (found.job, found.restarts, found.backend, found.num_workers) == ("12", 1, None, 2)


def test_the_loopback_address_is_that_of_its_interface(monkeypatch):
    monkeypatch.setattr("socket.gethostbyname", lambda name: "127.0.0.1")
    assert Process.here(torch.device("cpu")).interface == "lo"


@pytest.fixture
def checkout(tmp_path) -> Path:
    git(tmp_path, "init", "--quiet")
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "add", "src")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "A")
    return package


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_changes_since_are_told(checkout):
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert git_state(checkout) == commit
    (checkout / "notes.txt").write_text("untracked")
    assert git_state(checkout) == commit
    (checkout / "__init__.py").write_text("changed = True")
    assert git_state(checkout) == f"{commit} with local changes"


def test_a_package_installed_within_another_checkout_has_no_commit(checkout, tmp_path):
    installed = checkout / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_state(installed) is None
    assert git_state(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 3], "0-3"), ([9, 1, 2, 7, 8], "1-2,7-9"), ([1, 3], "1,3")]
)
def test_consecutive_numbers_are_ranges(numbers, text):
    assert ranges(numbers) == text


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (["gpu1", "gpu2", "gpu4"], "gpu[1-2,4]"),
        (["gpu08", "gpu09", "gpu10"], "gpu[08-10]"),
        (["gpu9", "gpu10"], "gpu9,gpu10"),
        (["rack1-n07", "rack2-n07", "login"], "rack1-n07,rack2-n07,login"),
    ],
)
def test_names_of_nodes_are_written_as_slurm_does(hosts, text):
    assert host_list(hosts) == text


def test_the_report_is_said_first_and_kept_with_the_weights_and_in_tensorboard(tmp_path):
    said: list[str] = []
    report = StartReport(said.append, lambda: ["model           tiny"])
    first_step: list[int] = []
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")

    def before(trainer: pl.Trainer, module: pl.LightningModule, batch_idx: int) -> None:
        first_step.append(len(said))

    with tiny_encoder():
        trainer = fit(tiny_arl(2), [random_batch(2)], 1, [report, Around(before=before)], logger=logger)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert first_step == [1]
    lines = said[0].splitlines()
    assert lines[0] == "model           tiny"
    assert lines[1].startswith("nodes           1 node x 1 rank on ")
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)["setting"]
    assert kept["report"] == lines
    assert kept["processes"][0]["host"] == report.setting.processes[0].host
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (text,) = events.Tensors("start/text_summary")
    assert "model           tiny" in text.tensor_proto.string_val[0].decode()
