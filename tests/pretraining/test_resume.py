"""A run that was stopped goes on bit for bit, in float64 on the CPU."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_arl import Around, Recorder, fit, same, snapshot, tiny_arl, tiny_data
from tiny_shards import write_shards

NUM_STEPS, STOP = 6, 3
# The discriminator begins at step 2, the center and both schedules move at every step.
CHANGES = {
    "adversarial": {"start_share": 2 / 6},
    "self_distillation": {"freeze_prototypes_share": 1 / 6},
    "optimization": {"warmup_share": 0.5, "weight_decay_end": 0.4},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [12, 12])


def run(shards, num_workers=0, callbacks=(), ckpt_path=None, seed=0, accumulate=1, **changes):
    options = {**CHANGES, **changes}
    options["optimization"] = {**options["optimization"], "accumulate_batches": accumulate}
    module, recorder = tiny_arl(seed=seed, **options), Recorder()
    data = tiny_data(shards, num_workers=num_workers)
    trainer = fit(module, data, NUM_STEPS, [recorder, *callbacks], ckpt_path)
    return snapshot(trainer, module), recorder


def check(straight, resumed, accumulate: int = 1) -> None:
    num_behind = STOP * accumulate
    (state, recorder), (resumed_state, resumed_recorder) = straight, resumed
    different = [name for name in state if not same(state[name], resumed_state[name])]
    assert different == []
    assert resumed_recorder.keys == recorder.keys[num_behind:]
    assert resumed_recorder.metrics[-1]["train/adaptive_weight"] > 0
    at_steps = slice(accumulate - 1, None, accumulate)
    assert resumed_recorder.metrics[at_steps] == recorder.metrics[num_behind:][at_steps]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_run_continues_from_its_last_checkpoint(shards, tmp_path, num_workers):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=STOP, save_top_k=-1)
    straight = run(shards, num_workers, [saver])
    # The fresh networks are others: all of them must come from the checkpoint.
    resumed = run(shards, num_workers, ckpt_path=tmp_path / f"step={STOP}.ckpt", seed=1)
    check(straight, resumed)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stopped_run_continues_where_it_stopped(shards, tmp_path, num_workers):
    def stop(trainer, module, batch_idx):
        if trainer.global_step == STOP:
            trainer.save_checkpoint(tmp_path / "stopped.ckpt")
            trainer.should_stop = True

    straight = run(shards, num_workers)
    _, stopped = run(shards, num_workers, [Around(after=stop)])
    assert len(stopped.keys) == STOP
    resumed = run(shards, num_workers, ckpt_path=tmp_path / "stopped.ckpt", seed=1)
    check(straight, resumed)


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"self_distillation": {"targets": "sinkhorn"}}])
def test_other_kinds_of_step_continue_too(shards, tmp_path, changes):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=STOP, save_top_k=-1)
    straight = run(shards, callbacks=[saver], **changes)
    resumed = run(shards, ckpt_path=tmp_path / f"step={STOP}.ckpt", seed=1, **changes)
    check(straight, resumed, changes.get("accumulate", 1))


def test_a_stopped_run_continues_with_other_workers_on_what_is_left_of_the_epoch(shards, tmp_path):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=STOP, save_top_k=-1)
    _, straight = run(shards, 0, [saver])
    _, resumed = run(shards, 2, ckpt_path=tmp_path / f"step={STOP}.ckpt", seed=1)
    # 24 samples in batches of 4: the six steps are one epoch.
    assert resumed.keys != straight.keys[STOP:]
    left = {key for batch in straight.keys[STOP:] for key in batch}
    assert {key for batch in resumed.keys for key in batch} == left
    assert len(left) == 12


def test_a_run_repeats_itself_and_another_seed_does_not(shards):
    first, again, other = run(shards)[0], run(shards)[0], run(shards, seed=1)[0]
    assert same(first, again)
    assert not same(first, other)
