"""Data that goes bad during a run: it is counted over all ranks, which stop together with a checkpoint."""

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from recorded_run import Run, launch
from tiny_arl import Recorder, fit, tiny_arl, tiny_data
from tiny_shards import write_shards

from arl_lightning.errors import UserError
from arl_lightning.pretraining.callbacks import DataGuard
from arl_lightning.training.checkpoints import RunCheckpoints, resume_from

pytestmark = pytest.mark.filterwarnings("ignore:.*skipped")


class Remove(pl.Callback):
    """Deletes a file once all shards have been found in order."""

    def __init__(self, path) -> None:
        self.path = path

    def on_fit_start(self, trainer, pl_module) -> None:
        self.path.unlink()


def unused(folder: Path) -> RunCheckpoints:
    """A run's checkpoints that save nothing by themselves."""
    return RunCheckpoints(folder, every_n_steps=10**6, keep=1)


def test_losses_are_logged_and_a_small_share_lets_the_run_go_on(tmp_path):
    # 20 batches of 4 are an epoch; all of the shard's places are in it.
    folder = write_shards(tmp_path / "shards", [20] * 4)
    data = tiny_data(folder, max_bad_share=0.3, read_retries=0, open_shards=1)
    recorder = Recorder()
    gone = Remove(folder / "shard-000003.tar")
    fit(tiny_arl(), data, 20, [gone, DataGuard(unused(tmp_path / "run"), every_n_steps=10), recorder])
    counts = [(m["train/data/replaced_images"], m["train/data/lost_shards"]) for m in recorder.metrics[10:]]
    assert counts[-1] == (20, 1)
    assert not (tmp_path / "run").exists()


def test_a_run_that_loses_too_much_stops_with_a_checkpoint_and_goes_on_once_that_is_mended(tmp_path):
    folder = write_shards(tmp_path / "shards", [20] * 4)
    path = folder / "shard-000002.tar"
    content = path.read_bytes()
    data = tiny_data(folder, max_bad_share=0.2, read_retries=0)
    guard = DataGuard(unused(tmp_path), every_n_steps=2)
    with pytest.raises(
        UserError,
        match=r"step 2: 25.00% of the corpus cannot be used: 0 of \d+ images read are undecodable, 1 of 4 shards are"
        r" lost \(\S*shard-000002.tar\), more than data.max_bad_share 0.2; .* --ckpt_path last.*step-0000002.ckpt",
    ):
        fit(tiny_arl(), data, 20, [Remove(path), guard])
    last = resume_from(tmp_path)
    assert torch.load(last, weights_only=True)["global_step"] == 2
    path.write_bytes(content)
    trainer = fit(tiny_arl(), tiny_data(folder), 4, [DataGuard(unused(tmp_path), 2)], last)
    assert trainer.global_step == 4


def test_too_many_undecodable_images_stop_a_run_once_enough_are_read(tmp_path):
    folder = write_shards(tmp_path / "shards", [60] * 2, garbage=range(0, 120, 10))
    recorder = Recorder()
    with pytest.raises(UserError, match=r"step 2\d: 1\d.\d\d% of the corpus cannot be used: 1\d of 1\d\d images read"):
        fit(tiny_arl(), tiny_data(folder), 30, [recorder, DataGuard(unused(tmp_path), every_n_steps=1)])
    assert len(recorder.keys) >= 20  # 100 images are not read before


def test_all_ranks_stop_at_the_same_step_with_the_same_words(tmp_path):
    shards = write_shards(tmp_path / "shards", [12] * 8, garbage=range(12, 24))
    layout = {"batch_size": 3, "num_workers": 1, "open_shards": 1, "max_bad_share": 0.05}
    run = Run(shards, tmp_path / "run", 200, layout, world_size=2, checkpoint_every=1000, guard_every=5)
    batches = launch(run)
    errors = [(run.folder / f"error-{rank}").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert "shard-000001.tar" in errors[0]
    assert 0 < len(batches[0]) == len(batches[1]) < 200
    assert torch.load(run.folder / "last.ckpt", weights_only=True)["global_step"] == len(batches[0])
    # With a higher limit the run goes on from there.
    rest = launch(replace(run, max_steps=len(batches[0]) + 2, data={**layout, "max_bad_share": 0.5}))
    assert [batch[0] for batch in rest[1]] == [len(batches[1]), len(batches[1]) + 1]
