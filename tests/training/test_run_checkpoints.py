import resource
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.multiprocessing
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_arl import Around, fit, random_batch, same, snapshot, tiny_arl, tiny_data, tiny_encoder
from tiny_shards import write_shards

from arl_lightning.distributed.saving import Saving
from arl_lightning.errors import UserError
from arl_lightning.training import checkpoint_io
from arl_lightning.training import checkpoints as module
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.checkpoints import RunCheckpoints, resume_from
from arl_lightning.training.preemption import Agreement

BATCHES = [random_batch(seed=seed) for seed in range(20)]


class Counting(AtomicCheckpointIO):
    """Remembers the step of every file that is written."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self.steps.append(checkpoint["global_step"])


def train(folder: Path, max_steps: int, every: int = 2, keep: int = 2, ckpt_path=None, data=BATCHES, **changes):
    """Train and return the steps that were written, and the networks and optimizer at the end."""
    module, counting = tiny_arl(**changes), Counting()
    callbacks = [RunCheckpoints(folder, every, keep)]
    trainer = fit(module, data, max_steps, callbacks, ckpt_path, plugins=[counting], enable_checkpointing=True)
    return counting.steps, snapshot(trainer, module)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), [16, 16])


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory) -> dict:
    """What six steps without an interruption end with."""
    with tiny_encoder():
        return train(tmp_path_factory.mktemp("straight"), 6, data=tiny_data(shards))[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_every_few_steps_and_the_last_are_saved_and_the_newest_kept_behind_a_relative_link(tmp_path):
    steps, _ = train(tmp_path, 7)
    assert steps == [2, 4, 6, 7]
    assert names(tmp_path) == ["last.ckpt", "step-0000006.ckpt", "step-0000007.ckpt"]
    assert (tmp_path / "last.ckpt").readlink() == Path("step-0000007.ckpt")
    assert step_of(tmp_path / "last.ckpt") == 7


def test_a_last_step_that_is_saved_already_is_not_saved_again(tmp_path):
    assert train(tmp_path, 4)[0] == [2, 4]


def test_all_are_kept_where_keep_is_zero(tmp_path):
    train(tmp_path, 5, keep=0)
    assert names(tmp_path) == ["last.ckpt", *(f"step-000000{step}.ckpt" for step in (2, 4, 5))]


def test_accumulated_batches_save_a_step_once(tmp_path):
    assert train(tmp_path, 4, optimization={"accumulate_batches": 3})[0] == [2, 4]


def test_only_the_run_s_own_steps_are_removed(tmp_path):
    foreign = ["step-1.ckpt", "step-0000001.ckpt.bak", "nonfinite.ckpt", "best.ckpt", "epoch-0000001.ckpt"]
    for name in foreign:
        (tmp_path / name).touch()
    train(tmp_path, 4, keep=1)
    assert names(tmp_path) == sorted([*foreign, "last.ckpt", "step-0000004.ckpt"])


def test_a_run_that_goes_back_keeps_its_own_steps_not_those_of_the_branch_it_left(tmp_path):
    train(tmp_path, 6, keep=3)
    # Steps 4 and 6 belong to the branch that is left; this run's own step 4 replaces one of them.
    steps, _ = train(tmp_path, 5, keep=2, ckpt_path=tmp_path / "step-0000002.ckpt")
    assert steps == [4, 5]
    assert names(tmp_path) == ["last.ckpt", "step-0000004.ckpt", "step-0000005.ckpt"]
    assert step_of(tmp_path / "last.ckpt") == 5


def test_asked_at_any_step_it_is_on_disk_and_linked_once(tmp_path):
    checkpoints, counting, links = RunCheckpoints(tmp_path, 100, 1), Counting(), []

    def save(trainer, module, batch_idx):
        if trainer.global_step == 2:
            path = checkpoints.save(trainer)
            links.append((path.name, str((tmp_path / "last.ckpt").readlink()), checkpoints.save(trainer) == path))

    callbacks = [Around(after=save), checkpoints]
    fit(tiny_arl(), BATCHES, 3, callbacks, plugins=[counting], enable_checkpointing=True)
    assert links == [("step-0000002.ckpt", "step-0000002.ckpt", True)]
    assert counting.steps == [2, 3]


def test_a_checkpoint_of_another_name_is_not_the_last(tmp_path):
    checkpoints = RunCheckpoints(tmp_path, 2, 1)

    def save(trainer, module, batch_idx):
        if trainer.global_step == 3:
            checkpoints.save(trainer, "nonfinite.ckpt")
            assert (tmp_path / "last.ckpt").readlink() == Path("step-0000002.ckpt")

    fit(tiny_arl(), BATCHES, 4, [Around(after=save), checkpoints], enable_checkpointing=True)
    assert names(tmp_path) == ["last.ckpt", "nonfinite.ckpt", "step-0000004.ckpt"]
    assert step_of(tmp_path / "nonfinite.ckpt") == 3


def test_a_plain_last_file_of_an_older_run_is_gone_on_from_and_kept_as_its_step(shards, straight, tmp_path):
    saver = ModelCheckpoint(tmp_path, "last", every_n_train_steps=4, enable_version_counter=False)
    stop = Around(after=lambda trainer, *_: setattr(trainer, "should_stop", trainer.global_step == 4))
    fit(tiny_arl(), tiny_data(shards), 6, [saver, stop])
    assert resume_from(tmp_path) == tmp_path / "last.ckpt"
    steps, resumed = train(tmp_path, 6, keep=0, ckpt_path=tmp_path / "last.ckpt", data=tiny_data(shards))
    assert steps == [6]
    assert (tmp_path / "last.ckpt").readlink() == Path("step-0000006.ckpt")
    assert step_of(tmp_path / "step-0000004.ckpt") == 4
    assert same(resumed, straight)


def test_a_copied_folder_named_last_is_replaced(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    train(tmp_path, 2)
    assert names(tmp_path) == ["last.ckpt", "step-0000002.ckpt"]


def test_a_resumed_step_that_is_the_last_is_not_written_again(tmp_path):
    train(tmp_path, 2)
    checkpoints, counting = RunCheckpoints(tmp_path, 2, 1), Counting()
    save_first = Around(before=lambda trainer, module, batch_idx: batch_idx == 0 and checkpoints.save(trainer))
    callbacks = [save_first, checkpoints]
    last = tmp_path / "last.ckpt"
    fit(tiny_arl(), BATCHES, 3, callbacks, last, plugins=[counting], enable_checkpointing=True)
    assert counting.steps == [3]


def test_what_a_killed_run_left_half_written_is_removed_at_the_next_start(tmp_path):
    (tmp_path / "step-0000009.ckpt.tmp").mkdir()
    for name in ("step-0000009.ckpt.tmp/__0_0.distcp", "last.ckpt.tmp", "nonfinite.ckpt.tmp", "mine.tmp"):
        (tmp_path / name).touch()
    train(tmp_path, 2)
    assert names(tmp_path) == ["last.ckpt", "mine.tmp", "step-0000002.ckpt"]


def test_a_file_system_without_links_is_refused_before_training(tmp_path):
    with (
        mock.patch.object(Path, "symlink_to", side_effect=PermissionError(1, "Operation not permitted")),
        pytest.raises(UserError, match=r"symbolic link to the last \(Operation not permitted\); choose another --run"),
    ):
        train(tmp_path, 2)


def test_what_last_leads_to_must_be_whole(tmp_path):
    assert resume_from(tmp_path / "none") is None
    (tmp_path / "nonfinite.ckpt").touch()
    assert resume_from(tmp_path) is None
    train(tmp_path, 4, keep=0)
    assert resume_from(tmp_path) == tmp_path / "last.ckpt"
    newest, former = tmp_path / "step-0000004.ckpt", tmp_path / "step-0000002.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    for _ in range(2):
        with pytest.raises(UserError, match=rf"last.ckpt: leads to {newest.name}, .* --ckpt_path \S*{former.name},"):
            resume_from(tmp_path)
        newest.unlink(missing_ok=True)
    (tmp_path / "last.ckpt").unlink()
    assert resume_from(tmp_path) == former  # killed between the first checkpoint and its link


def test_a_run_that_goes_on_keeps_nothing_of_the_file_mapped(tmp_path):
    train(tmp_path, 2)
    mapped: list[bool] = []

    def look(*_):
        mapped.append(str(tmp_path) in Path("/proc/self/maps").read_text())

    saved = torch.load(tmp_path / "last.ckpt", mmap=True, weights_only=True)
    look()
    del saved
    checkpoints = RunCheckpoints(tmp_path / "other", 2, 1)
    last, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    callbacks = [Around(before=look), checkpoints]
    fit(tiny_arl(), BATCHES, 3, callbacks, last, plugins=[io], enable_checkpointing=True)
    assert mapped == [True, False]


def test_a_link_that_cannot_be_made_is_told_as_such_with_the_checkpoint_that_is_whole(tmp_path):
    link = RunCheckpoints._link

    def fail(self, path):
        if path.name == "step-0000004.ckpt":
            raise PermissionError(13, "Permission denied")
        link(self, path)

    with mock.patch.object(RunCheckpoints, "_link", fail), pytest.raises(UserError) as refused:
        train(tmp_path, 6)
    assert str(refused.value) == (
        f"{tmp_path}/step-0000004.ckpt: is whole, but last.ckpt cannot lead to it (Permission denied); mend that and go"
        f" on with --ckpt_path {tmp_path}/step-0000004.ckpt"
    )


def test_what_cannot_be_removed_is_warned_of_and_training_goes_on(tmp_path):
    with (
        mock.patch.object(Path, "iterdir", side_effect=OSError(5, "Input/output error")),
        mock.patch.object(RunCheckpoints, "_prepare", lambda self: self.folder.mkdir(exist_ok=True)),
        pytest.warns(UserWarning, match=r"former checkpoints cannot be removed \(Input/output error\)"),
    ):
        assert train(tmp_path, 6)[0] == [2, 4, 6]


def test_the_end_of_a_save_is_known_one_batch_late_so_that_no_rank_waits_for_the_answer(tmp_path):
    checkpoints, future = RunCheckpoints(tmp_path, 1, 1), Future()
    checkpoints._agreement = Agreement(1)
    saving = Saving(tmp_path / "step-0000002.ckpt", future)
    known = [checkpoints._has_ended_everywhere(saving) for _ in range(2)]
    future.set_result(None)
    known += [checkpoints._has_ended_everywhere(saving) for _ in range(2)]
    assert known == [False, False, False, True]


@pytest.mark.parametrize("outcome", [OSError(28, "No space left on device"), None])
def test_an_error_does_not_hide_that_the_save_that_went_on_has_failed_too(tmp_path, outcome):
    checkpoints, future = RunCheckpoints(tmp_path, 1, 1), Future()
    checkpoints._saving = Saving(tmp_path / "step-0000002.ckpt", future)
    said = "not ended after 0 s"
    if outcome is not None:
        future.set_exception(outcome)
        said = "No space left on device"
    with (
        mock.patch.object(module, "LINGER_SECONDS", 0.01),
        pytest.warns(UserWarning, match=rf"step-0000002.ckpt: cannot be written \({said}\)"),
    ):
        checkpoints.on_exception(SimpleNamespace(is_global_zero=True), tiny_arl(), ValueError())


# ---------------------------------------------------------------- disks that fill up, runs that are killed


@contextmanager
def small_files(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(shards, tmp_path) -> Iterator[Path]:
    """A file system of its own with room for one checkpoint, not for two."""
    train(tmp_path / "size", 1, data=tiny_data(shards))
    size = (tmp_path / "size/last.ckpt").stat().st_size
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(1.5 * size)}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_run_with_the_former_checkpoint_whole(shards, straight, small_disk):
    with pytest.raises(UserError) as refused:
        train(small_disk, 6, data=tiny_data(shards))
    assert str(refused.value) == (
        f"{small_disk}/step-0000004.ckpt: cannot be written (No space left on device); step-0000002.ckpt is whole:"
        " free space and go on with --ckpt_path last"
    )
    assert names(small_disk) == ["last.ckpt", "step-0000002.ckpt"]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    steps, resumed = train(small_disk, 6, ckpt_path=resume_from(small_disk), data=tiny_data(shards))
    assert steps == [4, 6]
    assert same(resumed, straight)


def test_a_first_checkpoint_that_cannot_be_written_says_so(tmp_path):
    with (
        small_files(10_000),
        pytest.raises(UserError, match=r"\(File too large\); there is no earlier one: free space and start again"),
    ):
        train(tmp_path, 2)
    assert names(tmp_path) == []


def killed_run(shards: Path, folder: Path) -> None:
    """Train until half of step 4's file is written, and wait there to be killed."""

    def write_half(checkpoint, file):
        if checkpoint["global_step"] < 4:
            return whole_save(checkpoint, file)
        whole_save(checkpoint, file)
        file.truncate(file.tell() // 2)
        file.flush()
        (folder / "inside").touch()
        time.sleep(600)
        return None

    whole_save = torch.save
    with tiny_encoder(), mock.patch.object(checkpoint_io.torch, "save", write_half):
        train(folder, 6, data=tiny_data(shards))


def test_a_kill_in_the_middle_of_saving_leaves_the_former_checkpoint(shards, straight, tmp_path):
    process = torch.multiprocessing.get_context("spawn").Process(target=killed_run, args=(shards, tmp_path))
    process.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "inside").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.join()
    (tmp_path / "inside").unlink()
    assert names(tmp_path) == ["last.ckpt", "step-0000002.ckpt", "step-0000004.ckpt.tmp"]
    steps, resumed = train(tmp_path, 6, ckpt_path=resume_from(tmp_path), data=tiny_data(shards))
    assert steps == [4, 6]
    assert names(tmp_path) == ["last.ckpt", "step-0000004.ckpt", "step-0000006.ckpt"]
    assert same(resumed, straight)
