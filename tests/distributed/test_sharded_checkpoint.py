"""What FSDP2's ranks save goes on under any layout, and any checkpoint goes on under FSDP2."""

import os
import pickle
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import pytest
import torch
from layouts import DDP_2, FSDP2, HSDP, SINGLE, Layout, spawn, whole
from tiny_arl import Around, fit, part, random_batch, same, tiny_arl, tiny_encoder
from torch.multiprocessing import ProcessExitedException
from torch.utils.data import DataLoader, IterableDataset

from arl_lightning.distributed import saving, shard_index
from arl_lightning.distributed.saving import replace, temporary_of
from arl_lightning.distributed.sharded_checkpoint import (
    FolderSource,
    WholeSource,
    is_whole,
    newest_whole,
    read_folder,
    restore_optimizer,
)
from arl_lightning.errors import UserError
from arl_lightning.models.weights import encoder_of_checkpoint, read_checkpoint, read_encoder
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.export import export
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.checkpoints import RunCheckpoints, resume_from

NUM_IMAGES, NUM_STEPS, EVERY = 8, 6, 2
TOLERANCE = 1e-9
# The discriminator has no optimizer state in the first checkpoint, and centers, schedules and all networks move.
OPTIONS: dict[str, Any] = {
    "adversarial": {"start_share": 0.5},
    "self_distillation": {"patch_weight": 0.5},
    "optimization": {"base_lr": 0.01, "discriminator_base_lr": 0.01, "clip": 0.5, "warmup_share": 0.3},
}


class Stream(IterableDataset):
    """Batches without a known number of them."""

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator:
        return iter(self.batches)


class Batches(pl.LightningDataModule):
    """A rank's part of a row of batches; its state is how many were trained on."""

    def __init__(self, layout: Layout, rank: int) -> None:
        super().__init__()
        share = NUM_IMAGES // layout.world_size
        batches = [random_batch(NUM_IMAGES, seed) for seed in range(NUM_STEPS)]
        self.batches = [part(batch, rank * share, (rank + 1) * share) for batch in batches]
        self.start = 0

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(self.batches[self.start :]), batch_size=None)

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.trainer.global_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["seen"]


def train(layout: Layout, rank: int, folder: Path, ckpt_path: Path | None = None, callbacks=(), **changes):
    """Train to the end; returns weights, and the optimizer's state by index, put together."""
    module = tiny_arl(NUM_IMAGES // layout.world_size, seed=rank if ckpt_path is None else 7, **{**OPTIONS, **changes})
    arguments = layout.trainer_arguments()
    arguments["plugins"] = [*arguments.get("plugins", []), AtomicCheckpointIO()]
    trainer = fit(
        module,
        Batches(layout, rank),
        NUM_STEPS,
        [*callbacks, RunCheckpoints(folder, EVERY, keep=0)],
        ckpt_path,
        enable_checkpointing=True,
        **arguments,
    )
    return {"weights": whole(module), "optimizer": moments(trainer), "nonfinite_steps": module.nonfinite_steps}


def sharded_moments(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state, as this rank holds it."""
    state = trainer.optimizers[0].state_dict()["state"]
    return {f"{index}.{name}": value for index, entries in state.items() for name, value in entries.items()}


def moments(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state, put together; on all ranks at once."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()
        for name, value in sharded_moments(trainer).items()
    }


def copying(folder: Path) -> Around:
    """Saves what was loaded before it is trained."""
    checkpoints = RunCheckpoints(folder, 10**6, keep=0)

    def save(trainer, module, batch_idx):
        if not (folder / "copy.ckpt").exists():
            checkpoints.save(trainer, "copy.ckpt")

    return Around(before=save)


def staged(folder: Path) -> tuple[Around, list[bool]]:
    """Begins to save, changes all weights at once, and compares what is read with what was there."""
    equal: list[bool] = []

    def save(trainer, module, batch_idx):
        if equal:
            return
        before = {**whole(module), **moments(trainer)}
        held = [*module.state_dict().values(), *sharded_moments(trainer).values()]
        kept = [value.clone() for value in held]
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        background = trainer.strategy.save_in_background(checkpoint, folder / "staged.ckpt")
        with torch.no_grad():
            for value in held:
                value.zero_()
        background.wait()
        read = read_folder(folder / "staged.ckpt")
        state = read["optimizer_states"][0]["state"]
        read_moments = {f"{index}.{name}": value for index, each in state.items() for name, value in each.items()}
        equal.append(same(before, {**read["state_dict"], **read_moments}))
        with torch.no_grad():
            for value, former in zip(held, kept, strict=True):
                value.copy_(former)

    return Around(after=save), equal


def refusal(run: Any) -> str:
    with pytest.raises(UserError) as refused:
        run()
    return str(refused.value)


def full_on(rank: int) -> Around:
    """Lets a rank write little once step 3 is saved."""

    def limit(trainer, module, batch_idx):
        if trainer.global_step != EVERY + 1:
            return
        (checkpoints,) = (each for each in trainer.callbacks if isinstance(each, RunCheckpoints))
        checkpoints.save(trainer)
        if trainer.global_rank == rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return Around(after=limit)


def two_ranks(folder: Path, rank: int) -> dict[str, Any]:
    """Save under FSDP2 and go on from there, and from one process's file."""
    with tiny_encoder():
        results = {"straight": train(FSDP2, rank, folder / "fsdp2")}
        sharded, file = folder / "fsdp2/step-0000002.ckpt", folder / "single/step-0000002.ckpt"
        results["again"] = train(FSDP2, rank, folder / "again", sharded)
        results["ddp"] = train(DDP_2, rank, folder / "ddp", sharded, [copying(folder / "ddp")])
        results["of a file"] = train(FSDP2, rank, folder / "of_file", file, [copying(folder / "of_file")])
        # What stale names on another node do: the second rank sees the step before, or none.
        for name, stale in (("older", folder / "fsdp2/step-0000002.ckpt"), ("none", None)):
            path = stale if rank == 1 else folder / "fsdp2/step-0000004.ckpt"
            results[name] = train(FSDP2, rank, folder / f"stale {name}", path)
        callback, results["staged"] = staged(folder)
        other = {"decoder": {"dim": 32}}
        results["other"] = refusal(lambda: train(FSDP2, rank, folder / "other", sharded, **other))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        for layout, writer, others in ((FSDP2, 1, [callback]), (DDP_2, 0, [])):  # under DDP the first rank writes
            place, callbacks = folder / f"full {layout}", [*others, full_on(writer)]
            results[f"full {layout}"] = refusal(partial(train, layout, rank, place, callbacks=callbacks))
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return results


def killed_ranks(folder: Path, rank: int) -> None:
    """Go on under HSDP, and lose the first rank when the last step's shards are on disk and have no name yet."""

    def kill(writer, metadata, results):
        if writer.place.name == "step-0000006.ckpt":
            os.kill(os.getpid(), signal.SIGKILL)
        finish(writer, metadata, results)

    finish = saving._FolderWriter.finish
    with tiny_encoder(), mock.patch.object(saving._FolderWriter, "finish", kill):
        train(HSDP, rank, folder / "hsdp", folder / "fsdp2/step-0000002.ckpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def single(folder) -> dict[str, Any]:
    """What one process has without an interruption."""
    with tiny_encoder():
        return train(SINGLE, 0, folder / "single")


@pytest.fixture(scope="module")
def ranks(folder, single, tmp_path_factory) -> list[dict[str, Any]]:
    return spawn(partial(two_ranks, folder), 2, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def sharded(folder, ranks) -> Path:
    """A checkpoint of two ranks."""
    return folder / "fsdp2/step-0000002.ckpt"


@pytest.fixture
def copy(sharded, tmp_path) -> Path:
    """A copy to damage, alone in its folder."""
    return Path(shutil.copytree(sharded, tmp_path / "step-0000004.ckpt"))


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Name what differs by more than rounding, of weights and optimizer state."""
    assert found["nonfinite_steps"] == expected["nonfinite_steps"] == 0
    wrong = []
    for kind in ("weights", "optimizer"):
        assert found[kind].keys() == expected[kind].keys()
        wrong += [
            name
            for name, value in expected[kind].items()
            if not torch.allclose(found[kind][name], value, rtol=0, atol=TOLERANCE)
        ]
    return wrong


def test_a_resumed_sharded_run_equals_the_uninterrupted_one_bit_for_bit(ranks, single):
    for rank in ranks:
        assert same(rank["again"], rank["straight"])
    assert differences(ranks[0]["straight"], single) == []


def test_the_first_checkpoint_knows_no_optimizer_state_of_the_discriminator(sharded):
    state = read_folder(sharded)["optimizer_states"][0]
    groups = {group["name"]: group["params"] for group in state["param_groups"]}
    assert state["state"].keys() >= set(groups["student"])
    assert not state["state"].keys() & set(groups["discriminator"])


@pytest.mark.parametrize("name", ["older", "none"])
def test_all_ranks_go_on_from_what_the_first_one_sees(ranks, name):
    for rank in ranks:
        assert same(rank[name], rank["straight"])


@pytest.mark.parametrize("name", ["ddp", "of a file"])
def test_ddp_goes_on_from_sharded_checkpoints_and_fsdp2_from_files(ranks, single, name):
    for rank in ranks:
        assert differences(rank[name], single) == []


def test_one_process_goes_on_from_a_sharded_checkpoint(sharded, single, tmp_path):
    with tiny_encoder():
        assert differences(train(SINGLE, 0, tmp_path, sharded), single) == []


def test_nothing_is_lost_between_files_and_folders(folder, sharded):
    def held(checkpoint: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in checkpoint.items() if name not in ("loops", "arl")}

    # What a rank or a process loaded, it saved again in its own form, before any step.
    pairs = [(sharded, folder / "ddp/copy.ckpt"), (folder / "single/step-0000002.ckpt", folder / "of_file/copy.ckpt")]
    for before, after in pairs:
        assert before.is_dir() != after.is_dir()
        first, second = (read_folder(p) if p.is_dir() else torch.load(p, weights_only=True) for p in (before, after))
        assert same(held(first), held(second))
        assert first["Batches"] == {"seen": 2}
        assert first["arl"]["recipe"] | {"batch_size": 0} == second["arl"]["recipe"] | {"batch_size": 0}
        assert set(first["state_dict"]) > {"distillation.cls_targets.center"}


def test_saving_copies_before_the_weights_change(ranks):
    assert [rank["staged"] for rank in ranks] == [[True], [True]]


@pytest.mark.parametrize("layout", [FSDP2, DDP_2], ids=str)
def test_a_full_disk_on_one_rank_stops_all_with_the_same_line_and_the_former_checkpoint(folder, ranks, layout):
    place = folder / f"full {layout}"
    for rank in ranks:
        assert rank[f"full {layout}"] == (
            f"{place}/step-0000004.ckpt: cannot be written (File too large); step-0000003.ckpt is whole: free space"
            " and go on with --ckpt_path last"
        )
    assert sorted(p.name for p in place.iterdir()) == ["last.ckpt", "step-0000002.ckpt", "step-0000003.ckpt"]
    assert resume_from(place) == place / "last.ckpt"


def test_another_network_is_refused_before_any_weight_is_read(ranks):
    for rank in ranks:
        assert rank["other"].startswith("model.decoder.dim: the checkpoint has 16, this run 32;")


def test_a_kill_in_the_middle_of_saving_leaves_what_other_ranks_saved_before(folder, ranks, single, tmp_path):
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        spawn(partial(killed_ranks, folder), HSDP.world_size, tmp_path)
    place = folder / "hsdp"
    assert sorted(path.name for path in place.iterdir()) == [
        "last.ckpt",
        "step-0000004.ckpt",
        "step-0000006.ckpt.tmp",
    ]
    with tiny_encoder():
        assert differences(train(SINGLE, 0, place, resume_from(place)), single) == []
    assert sorted(path.name for path in place.iterdir()) == ["last.ckpt", "step-0000004.ckpt", "step-0000006.ckpt"]


# ---------------------------------------------------------------- reading in one process


def test_only_the_weights_asked_for_are_read(sharded):
    with mock.patch.object(FolderSource, "fill", autospec=True) as fill:
        checkpoint = read_checkpoint(sharded, "teacher.encoder.")
    (_, targets), _ = fill.call_args
    assert targets
    assert all(name.startswith("weights.teacher.encoder.") for name in targets)
    assert checkpoint["global_step"] == 2
    assert read_checkpoint(sharded, None)["state_dict"] == {}


def test_the_module_is_rebuilt_from_a_folder(sharded):
    with tiny_encoder():
        weights = ARL.from_checkpoint(sharded).state_dict()
    saved = read_folder(sharded)["state_dict"]
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], value.float()) for name, value in saved.items())


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_exports_of_files_and_folders_hold_the_same_tensors(folder, sharded, tmp_path, network):
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = []
    with tiny_encoder():
        for name in (sharded, folder / "ddp/copy.ckpt"):
            said = export(name, tmp_path / "encoder.safetensors", network)
            assert f"{network}'s encoder avit_tiny_patch8_224 of step 2" in said
            encoder, _ = read_encoder(tmp_path / "encoder.safetensors")
            straight, _ = encoder_of_checkpoint(name, network)
            with torch.no_grad():
                outputs += [each.eval().forward_features(images) for each in (encoder, straight)]
    assert all(same(output, outputs[0]) for output in outputs)


def test_an_incomplete_folder_is_refused_with_the_newest_whole_one(copy):
    for name in ("meta.pt", ".metadata", "__1_0.distcp"):
        (copy / name).rename(copy.parent / "aside")
        message = rf"step-0000004.ckpt: is not whole \(no {name}\); copy it again, or choose another one$"
        with pytest.raises(UserError, match=message):
            read_checkpoint(copy)
        (copy.parent / "aside").rename(copy / name)
    whole_one = copy.with_name("step-0000002.ckpt")
    shutil.copytree(copy, whole_one)
    (copy / "__0_0.distcp").unlink()
    assert newest_whole(copy.parent) == whole_one
    with pytest.raises(UserError, match=rf"not whole \(no __0_0.distcp\); .* go on from {whole_one}, which is whole"):
        read_checkpoint(copy)


@pytest.mark.parametrize("name", ["__1_0.distcp", "meta.pt"])
def test_a_checkpoint_with_a_cut_file_is_not_whole(copy, name):
    whole_one = Path(shutil.copytree(copy, copy.with_name("step-0000002.ckpt")))
    file = copy / name
    file.write_bytes(file.read_bytes()[:-1])
    assert not is_whole(copy)
    assert newest_whole(copy.parent) == whole_one
    with pytest.raises(UserError, match=rf"{copy.name}: is not whole \({name} is cut.*\); .* go on from {whole_one},"):
        read_checkpoint(copy)


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_while_a_folder_takes_another_s_place_leaves_what_last_leads_to(copy, killed_at_renaming, renamed):
    folder = copy.parent
    (folder / "last.ckpt").symlink_to(copy.name)
    shutil.copytree(copy, temporary_of(copy))
    with killed_at_renaming(renamed):
        replace(temporary_of(copy), copy)
    assert resume_from(folder) == folder / "last.ckpt"
    RunCheckpoints(folder, 1, 1).setup(SimpleNamespace(is_global_zero=True), None, "fit")
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", copy.name]
    assert read_folder(folder / "last.ckpt")["global_step"] == 2


def test_another_optimizer_s_state_is_told_in_a_line(sharded):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(UserError, match=r"step-0000002.ckpt: holds state of \d+ parameters, this run has 1"):
        restore_optimizer(FolderSource(sharded), 0, optimizer)
    checkpoint = read_folder(sharded)
    checkpoint["optimizer_states"][0]["state"] = {}
    with pytest.raises(UserError, match=r"old.ckpt: holds another optimizer's state \(.*number of parameter groups\)"):
        restore_optimizer(WholeSource(Path("old.ckpt"), checkpoint), 0, optimizer)


def test_a_shard_that_cannot_be_read_is_named_with_the_newest_whole_checkpoint(copy):
    whole_one = Path(shutil.copytree(copy, copy.with_name("step-0000002.ckpt")))
    shard = copy / "__1_0.distcp"
    shard.write_bytes(bytes(shard.stat().st_size))
    message = rf"{copy.name}: not a readable checkpoint \(__1_0.distcp, \w+Error: .*\); .* go on from {whole_one},"
    with pytest.raises(UserError, match=message):
        read_checkpoint(copy)


def test_an_index_is_read_once(sharded):
    with mock.patch.object(shard_index, "_parse", side_effect=shard_index._parse) as parse:
        source = FolderSource(sharded)
        source.read("weights.teacher.")
        source.read("optimizer.")
    assert parse.call_count == 1


def test_no_damage_of_an_index_gets_past_a_line(copy):
    index, draw = copy / ".metadata", random.Random(0)  # noqa: S311 (damage, not secrets)
    content = index.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[draw.randrange(3000)] = draw.randrange(256)
        index.write_bytes(damaged)
        try:
            FolderSource(copy)
        except UserError as error:
            assert "is not whole (" in str(error)  # noqa: PT017 (some changes of a byte do no harm)
            refused += 1
    assert refused > 20
    index.write_bytes(bytes(100))
    with pytest.raises(UserError, match=r"not whole \(.metadata is damaged, UnpicklingError\)"):
        FolderSource(copy)


class Harmful:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def test_no_code_of_a_folder_runs(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    (copy / ".metadata").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match=r"\(.metadata holds posix.mkdir, so another version of torch"):
        read_checkpoint(copy)
    assert not Path("ran").exists()
