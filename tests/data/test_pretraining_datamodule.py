import hashlib
import itertools
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_shards import encode, noise_image, write_shard, write_shards

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.stream.records import BadSampleError
from arl_lightning.data.stream.transform import decode_image
from arl_lightning.errors import UserError

BATCHES_PER_EPOCH = 8  # 48 samples in batches of 6, read by one or two workers


class Recorder(pl.LightningModule):
    """Takes one manual optimizer step on every batch and remembers what the batch was."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple] = []

    def training_step(self, batch, batch_idx):
        checksum = hashlib.sha256(batch["global_views"].numpy().tobytes() + batch["local_views"].numpy().tobytes())
        self.seen.append((tuple(batch["key"]), tuple(batch["seed"].tolist()), checksum.hexdigest()))
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.weight - 1) ** 2)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_data(folder, **arguments: Any) -> PretrainingDataModule:
    small = {"batch_size": 6, "num_workers": 0, "global_size": 16, "num_local_views": 2, "local_size": 8}
    return PretrainingDataModule(str(folder), **{**small, **arguments})


def make_trainer(folder, max_steps: int, callbacks=(), **arguments: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    settings = {**quiet, "enable_checkpointing": bool(callbacks), "max_steps": max_steps, **arguments}
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **settings)


def keys(seen: list[tuple]) -> list[str]:
    return [key for names, _, _ in seen for key in names]


def fit(folder, data, max_steps: int, ckpt_path=None, callbacks=()) -> tuple[list[tuple], pl.Trainer]:
    module, trainer = Recorder(), make_trainer(folder, max_steps, callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
    return module.seen, trainer


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", [13, 12, 12, 11])


def test_a_batch_has_its_fields(folder):
    data = make_data(folder, anatomies=["breast", "liver"])
    batch = next(iter(data.train_dataloader()))
    assert batch["global_views"].shape == (6, 2, 1, 16, 16)
    assert batch["local_views"].shape == (6, 2, 1, 8, 8)
    assert batch["global_views"].dtype == batch["local_views"].dtype == torch.uint8
    assert batch["anatomy"].tolist() == [0] * 6
    assert batch["anatomy"].dtype == batch["seed"].dtype == torch.int64
    assert len(set(batch["key"])) == 6


def test_colour_and_no_local_views(folder):
    batch = next(iter(make_data(folder, in_chans=3, num_local_views=0).train_dataloader()))
    assert batch["global_views"].shape == (6, 2, 3, 16, 16)
    assert batch["local_views"].shape == (6, 0, 3, 8, 8)


def test_views_do_not_depend_on_workers(folder):
    views: list[dict] = []
    for num_workers in (0, 2):
        loader = make_data(folder, num_workers=num_workers, batch_size=6).train_dataloader()
        batches = list(itertools.islice(loader, BATCHES_PER_EPOCH))
        views.append({seed: v for b in batches for seed, v in zip(b["seed"].tolist(), b["global_views"], strict=True)})
    both = views[0].keys() & views[1].keys()
    assert len(both) > 40
    assert all(torch.equal(views[0][seed], views[1][seed]) for seed in both)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 7, BATCHES_PER_EPOCH, 9])
def test_a_finished_run_continues_exactly(folder, tmp_path, num_workers, stop):
    straight, _ = fit(tmp_path, make_data(folder, num_workers=num_workers), 11)
    first, trainer = fit(tmp_path, make_data(folder, num_workers=num_workers), stop)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    rest, resumed = fit(tmp_path, make_data(folder, num_workers=num_workers), 11, tmp_path / "stopped.ckpt")
    assert first + rest == straight
    assert len(straight) == resumed.global_step == 11


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("at", [3, BATCHES_PER_EPOCH, 2 * BATCHES_PER_EPOCH])
def test_a_killed_run_continues_exactly_from_its_last_checkpoint(folder, tmp_path, num_workers, at):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    straight, _ = fit(tmp_path, make_data(folder, num_workers=num_workers), 19, callbacks=[saver])
    rest, _ = fit(tmp_path, make_data(folder, num_workers=num_workers), 19, tmp_path / f"step={at}.ckpt")
    assert rest == straight[at:]


def test_a_run_resumed_twice_continues_exactly(folder, tmp_path):
    straight, _ = fit(tmp_path, make_data(folder), 20)
    seen: list[tuple] = []
    checkpoint = None
    for stop in (5, 8, 14, 20):
        part, trainer = fit(tmp_path, make_data(folder), stop, checkpoint)
        checkpoint = tmp_path / f"{stop}.ckpt"
        trainer.save_checkpoint(checkpoint)
        seen += part
    assert seen == straight


def test_a_checkpoint_made_inside_a_step_repeats_that_step(folder, tmp_path):
    class Interrupted(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 5:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    straight, _ = fit(tmp_path, make_data(folder), 11, callbacks=[Interrupted()])
    rest, _ = fit(tmp_path, make_data(folder), 11, tmp_path / "inside.ckpt")
    assert rest == straight[5:]


def test_epochs_pass_inside_the_stream(folder, tmp_path):
    data = make_data(folder)
    seen, trainer = fit(tmp_path, data, 3 * BATCHES_PER_EPOCH)
    epochs = [
        [key for keys, _, _ in seen[start : start + BATCHES_PER_EPOCH] for key in keys]
        for start in range(0, len(seen), BATCHES_PER_EPOCH)
    ]
    assert data.batches_per_epoch == BATCHES_PER_EPOCH
    assert data.num_batches == len(seen) == 24
    assert data.epoch == 3
    assert [len(set(epoch)) for epoch in epochs] == [48] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert trainer.num_training_batches == float("inf")


def test_fast_dev_run_works(folder, tmp_path):
    module = Recorder()
    make_trainer(tmp_path, 100, fast_dev_run=2).fit(module, datamodule=make_data(folder))
    assert len(module.seen) == 2


def test_resuming_decodes_nothing_that_is_behind(folder, tmp_path, monkeypatch):
    _, trainer = fit(tmp_path, make_data(folder), 7)
    trainer.save_checkpoint(tmp_path / "7.ckpt")
    decoded = []
    monkeypatch.setattr(
        "arl_lightning.data.stream.transform.decode_image",
        lambda encoded, in_chans: decoded.append(encoded) or decode_image(encoded, in_chans),
    )
    fit(tmp_path, make_data(folder), 9, tmp_path / "7.ckpt")
    assert len(decoded) == (2 + 1) * 6  # Lightning fetches one batch ahead


@pytest.mark.parametrize(
    "changed",
    [
        {"num_workers": 2},
        {"batch_size": 4},
        {"open_shards": 1},
        {"batch_size": 5, "num_workers": 3, "open_shards": 2},
    ],
)
@pytest.mark.parametrize("stop", [1, 5, BATCHES_PER_EPOCH, 11])
def test_another_layout_goes_on_with_the_rest_of_the_epoch(folder, tmp_path, changed, stop):
    data = make_data(folder, **changed)
    first, trainer = fit(tmp_path, make_data(folder), stop)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    num_left = 48 - stop % BATCHES_PER_EPOCH * 6
    rest = stop + num_left // data.batch_size
    # Through the rest of the epoch, then resumed again with the same layout into the next one.
    second, trainer = fit(tmp_path, data, rest, tmp_path / "stopped.ckpt")
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    third, _ = fit(tmp_path, make_data(folder, **changed), rest + 48 // data.batch_size, tmp_path / "again.ckpt")
    seen = keys(first[stop - stop % BATCHES_PER_EPOCH :] + second)
    assert set(Counter(seen).values()) == {1}
    assert 48 - len(seen) == num_left % data.batch_size
    assert len(set(keys(third))) == len(keys(third)) == 48 - 48 % data.batch_size
    straight, _ = fit(tmp_path, make_data(folder, **changed), rest + 5, tmp_path / "stopped.ckpt")
    assert straight == second + third[:5]


def test_a_layout_that_changes_back_and_forth_sees_an_epoch_once(folder, tmp_path):
    seen, checkpoint = [], None
    for number, changed in enumerate([{}, {"num_workers": 2, "batch_size": 5}, {"open_shards": 1}, {"batch_size": 4}]):
        part, trainer = fit(tmp_path, make_data(folder, **changed), 2 * number + 2, checkpoint)
        checkpoint = tmp_path / f"{number}.ckpt"
        trainer.save_checkpoint(checkpoint)
        seen += keys(part)
    assert len(seen) == 2 * (6 + 5 + 6 + 4)
    rest, _ = fit(tmp_path, make_data(folder, batch_size=1), 8 + 48 - 42, checkpoint)
    assert sorted(seen + keys(rest)) == [f"k{index:05d}" for index in range(48)]


def test_a_module_without_a_trainer_resumes_too(folder):
    data = make_data(folder)
    straight = list(itertools.islice(data.train_dataloader(), 12))
    data.load_state_dict({**data.state_dict(), "num_batches": 9})
    assert next(iter(data.train_dataloader()))["seed"].tolist() == straight[9]["seed"].tolist()


def test_a_change_of_layout_is_said(folder):
    state = {**make_data(folder).state_dict(), "num_batches": BATCHES_PER_EPOCH + 3}
    words = (
        "written with 1 ranks x 0 workers x batches of 6, 4 open shards, this run has 1 ranks x 2 workers x batches of"
        " 5, 4 open shards: what is left of epoch 1 is shared out anew"
    )
    with pytest.warns(UserWarning, match=words):
        make_data(folder, num_workers=2, batch_size=5).load_state_dict(state)


def test_the_state_loads_without_unpickling_code(folder, tmp_path):
    data = make_data(folder, batch_size=5)
    data.load_state_dict({**make_data(folder).state_dict(), "num_batches": 3})
    torch.save(data.state_dict(), tmp_path / "state.pt")
    assert data.state_dict()["segment"]["ranges"]
    assert torch.load(tmp_path / "state.pt", weights_only=True) == data.state_dict()


def test_another_seed_or_corpus_is_refused(folder, tmp_path):
    state = make_data(folder).state_dict()
    other = write_shards(tmp_path / "other", [12] * 4)
    with pytest.raises(UserError, match=r"data.seed: the checkpoint was written with 0, this run has 1; resume"):
        make_data(folder, seed=1).load_state_dict(state)
    with pytest.raises(UserError, match=r"data.corpus: the checkpoint was written with [0-9a-f]{64}, this run has"):
        make_data(other).load_state_dict(state)
    del state["segment"]
    with pytest.raises(UserError, match="older version"):
        make_data(folder).load_state_dict(state)


def test_the_state_is_the_same_on_every_rank(folder):
    states = []
    for rank in range(2):
        data = make_data(folder)
        progress = SimpleNamespace(total=SimpleNamespace(processed=3))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, fit_loop=loop)
        data.load_state_dict({**make_data(folder).state_dict(), "num_batches": 3})
        states.append(data.state_dict())
    assert states[0] == states[1]
    assert states[0]["layout"]["world_size"] == 2
    assert sum(stop - start for _, start, stop in states[0]["segment"]["ranges"]) == 48 - 18


@pytest.mark.parametrize("settings", [{"max_steps": -1}, {"max_steps": -1, "max_epochs": 3}, {"max_epochs": 3}])
def test_a_run_without_an_end_in_steps_is_refused(folder, tmp_path, settings):
    trainer = make_trainer(tmp_path, **{"max_steps": 10, **settings})
    with pytest.raises(UserError, match=r"trainer.max_steps: must be set.* one epoch of it is 8 batches"):
        trainer.fit(Recorder(), datamodule=make_data(folder))


def test_setup_refuses_an_anatomy_outside_the_vocabulary(folder):
    with pytest.raises(UserError, match="anatomy 'breast' is not in the vocabulary"):
        make_data(folder, anatomies=["liver", "heart"]).setup()


def test_setup_refuses_too_few_shards(folder):
    with pytest.raises(UserError, match="4 shards for 1 ranks x 5 workers"):
        make_data(folder, num_workers=5).setup()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"in_chans": 2}, "data.in_chans: 2 is neither"),
        ({"max_bad_share": 1.5}, "data.max_bad_share: 1.5 must be 0 to 1"),
        ({"read_retries": -1}, "data.read_retries: -1 must be at least 0"),
    ],
)
def test_values_that_cannot_work_are_refused(folder, argument, message):
    with pytest.raises(UserError, match=message):
        make_data(folder, **argument)


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_workers_error_is_one_line(folder):
    loader = make_data(folder, num_workers=1, read_retries=0).train_dataloader()
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(UserError, match=r"^\S+\.tar: cannot be read, nor .* go on from the last checkpoint$"):
        next(iter(loader))


def test_shards_come_from_the_cache_after_the_first_time(folder, tmp_path):
    expected = [batch["seed"].tolist() for batch in itertools.islice(make_data(folder).train_dataloader(), 8)]
    address = f"pipe:cat {folder}/{{}}"
    data = make_data(address, cache_folder=str(tmp_path / "cache"))
    data.setup()
    assert [batch["seed"].tolist() for batch in itertools.islice(data.train_dataloader(), 8)] == expected
    assert len(list((tmp_path / "cache").iterdir())) == 4
    for path in folder.glob("*.tar"):
        path.unlink()
    assert [batch["seed"].tolist() for batch in itertools.islice(data.train_dataloader(), 8)] == expected


def test_setup_refuses_a_cache_that_is_too_small(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"data.cache_folder: .* GB are free"):
        make_data(folder, cache_folder=str(tmp_path)).setup()


def test_held_out_batches_are_the_first_of_seed_0(folder, tmp_path):
    data = make_data(folder, seed=3, val_shards=str(folder), num_val_batches=2)
    stream = make_data(folder).train_dataloader()
    found = [batch["key"] for batch in data.val_dataloader()]
    assert found == [batch["key"] for batch in itertools.islice(stream, 2)]
    assert [batch["key"] for batch in data.val_dataloader()] == found


@pytest.mark.parametrize("check_images", [False, True])
def test_checked_images_that_differ_from_their_record_are_bad(folder, check_images):
    transform = make_data(folder, check_images=check_images).transform
    image = encode(noise_image(0))
    record = {"anatomy": "breast", "sha256": hashlib.sha256(image).hexdigest()}
    raw = {"__key__": "a", "jpg": image, "json": json.dumps(record).encode()}
    assert transform(raw, 0)["key"] == "a"
    raw["jpg"] = encode(noise_image(1))
    if check_images:
        with pytest.raises(BadSampleError, match="checksum"):
            transform(raw, 0)
    else:
        assert transform(raw, 0)["key"] == "a"


def test_decoding_png_and_jpg_in_grey_and_colour():
    grey = noise_image(0)
    assert np.array_equal(decode_image(encode(grey, "png"), 1), grey)
    assert decode_image(encode(grey), 1).shape == grey.shape
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 2] = 200  # red, as OpenCV orders channels
    assert decode_image(encode(colour, "png"), 3)[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("encoded", [b"", b"no image"])
def test_what_is_no_image_is_a_bad_sample(encoded):
    with pytest.raises(BadSampleError):
        decode_image(encoded, 1)


def test_a_record_without_an_anatomy_is_a_bad_sample(folder):
    with pytest.raises(BadSampleError, match="anatomy"):
        make_data(folder).transform({"__key__": "a", "jpg": encode(noise_image(0)), "json": b"{}"}, 0)


def test_anatomies_get_their_indices(tmp_path):
    info = write_shard(tmp_path / "shard-000000.tar", [("a", encode(noise_image(0)))], anatomy="other")
    Manifest((info,)).save(tmp_path)
    data = make_data(tmp_path, batch_size=1)
    assert next(iter(data.train_dataloader()))["anatomy"].tolist() == [data.vocabulary.num_anatomies] == [16]
