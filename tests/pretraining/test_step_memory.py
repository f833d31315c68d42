import dataclasses
import math

import pytest
import torch
from tiny_arl import GROUPS, LOCAL_SIZE, tiny_arl
from torch._subclasses.fake_tensor import FakeTensorMode

from arl_lightning.errors import UserError
from arl_lightning.models import sampling
from arl_lightning.pretraining.memory import command as memory_module
from arl_lightning.pretraining.memory.command import memory
from arl_lightning.pretraining.memory.record import Recorder
from arl_lightning.pretraining.memory.report import GIB, LABELS, Column, MemoryReport
from arl_lightning.pretraining.memory.step import Images, Layout, step_memory

IMAGES = Images(batch_size=4, num_local_views=1, local_size=LOCAL_SIZE)


@pytest.fixture
def recorder():
    recorder = Recorder(whole_number=7, truth=True)
    with FakeTensorMode(), recorder:
        yield recorder


def test_the_peak_is_of_what_lives_at_once(recorder):
    first = torch.empty(1000)
    second = first * 2
    assert recorder.peak == {"activations": 8000}
    del first
    third = second + 1
    assert recorder.peak == {"activations": 8000}
    fourth = third.double()
    assert recorder.peak == {"activations": 16000}
    del second, third, fourth
    assert recorder.living == {"activations": 0}
    recorder.forget_peak()
    assert sum(recorder.peak.values()) == 0


def test_views_are_no_memory(recorder):
    whole = torch.empty(10, 100)
    kept = whole[2:4].T.unflatten(0, (50, 2))
    del whole
    assert recorder.living == {"activations": 4000}
    assert kept.shape == (50, 2, 2)


def test_a_storage_counts_as_large_as_it_is_now(recorder):
    gathered = torch.empty(1000)
    recorder.mark([gathered], "gathered")
    gathered.untyped_storage().resize_(0)
    assert recorder.living["gathered"] == 0
    gathered.untyped_storage().resize_(4000)
    assert recorder.living["gathered"] == 4000
    assert recorder.peak["gathered"] == 4000


def test_half_copies_of_weights_are_told_from_activations(recorder):
    weight, image = torch.empty(1000), torch.empty(500)
    recorder.mark([weight], "weights")
    copies = weight.bfloat16(), image.bfloat16()
    assert recorder.living == {"weights": 4000, "half weights": 2000, "activations": 2000 + 1000}
    del copies


def test_what_is_read_is_answered(recorder):
    assert int(torch.empty((), dtype=torch.long)) == 7
    assert bool(torch.empty((), dtype=torch.bool)) is True
    assert float(torch.empty(())) == 1.0


def bytes_of_weights(shards: int = 1) -> tuple[int, int]:
    """Of student and discriminator, and of the teacher, in float32 on the first rank: rows are rounded up."""
    parameters = list(tiny_arl().parameters())
    trained, frozen = (
        sum(4 * math.ceil(len(each) / shards) * each[0].numel() for each in parameters if each.requires_grad == trains)
        for trains in (True, False)
    )
    return trained, frozen


@pytest.mark.parametrize(
    ("layout", "shards"),
    [(Layout(), 1), (Layout("ddp", 16, 8), 1), (Layout("fsdp2", 16, 8), 16), (Layout("hsdp", 16, 8), 8)],
    ids=["alone", "ddp", "fsdp2", "hsdp"],
)
def test_what_stays_is_counted_byte_for_byte(layout, shards):
    trained, frozen = bytes_of_weights(shards)
    parts = step_memory(GROUPS, IMAGES, layout)
    assert parts["weights"] == trained
    assert parts["teacher"] == frozen
    assert 2 * trained <= parts["AdamW"] <= 2 * trained + 4 * 300  # a step count for each parameter
    assert (parts["gathered"] > 0) == (shards > 1)
    if layout.strategy == "ddp":
        assert parts["gradients"] == trained


def test_blocks_gathered_in_bfloat16_need_no_copies():
    parts = {on_gpu: step_memory(GROUPS, IMAGES, Layout("fsdp2", 16, 8), on_gpu=on_gpu) for on_gpu in (False, True)}
    assert parts[True]["half weights"] < parts[False]["half weights"]


def test_activations_grow_with_the_batch_beyond_this_machine_and_shrink_when_recomputed():
    images = dataclasses.replace(IMAGES, batch_size=1_000_000)
    small, large = (step_memory(GROUPS, each, Layout())["activations"] for each in (IMAGES, images))
    assert large > 200 * GIB
    assert large / images.batch_size == pytest.approx(small / IMAGES.batch_size, rel=0.1)
    encoder = dataclasses.replace(GROUPS["encoder"], checkpoint_gradients=True)
    assert step_memory({**GROUPS, "encoder": encoder}, images, Layout())["activations"] < 0.8 * large


def test_the_cpus_own_paths_are_restored():
    before = sampling.CPU_TABLE_BYTES
    step_memory(GROUPS, IMAGES, Layout())
    assert before == sampling.CPU_TABLE_BYTES
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.layer_norm(torch.zeros(2, 4, dtype=torch.bfloat16), (4,)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("gpu_memory", "step", "largest"),
    [(11.0, 0.0, 64), (6.0, 0.0, 37), (3.0, 0.0, 7), (1.9, 0.0, 0), (6.0, 1.5, 36)],
    ids=["fits", "fewer images", "much fewer", "never", "crooked"],
)
def test_the_batch_that_is_advised_fits_and_is_the_largest_of_a_straight_line(monkeypatch, gpu_memory, step, largest):
    """With 2 GiB, 0.1 more for an image, and from 48 images on a step; 0.25 GiB are reserved."""
    tried = []

    def parts(arguments, images, *_):
        tried.append(images.batch_size)
        total = 2 + 0.1 * images.batch_size + step * (images.batch_size >= 48)
        return dict.fromkeys(LABELS, 0) | {"activations": int(total * GIB)}

    monkeypatch.setattr(memory_module, "step_memory", parts)
    report = memory(gpus=8, batch_size=64, checkpoint_gradients=False, gpu_memory=gpu_memory, reserve=0.25)
    assert [column.largest_batch for column in report.tables[False]] == [largest] * 2
    assert len(tried) <= 12


def test_the_report_says_what_fits():
    def column(strategy: str, gib: int, largest_batch: int) -> Column:
        return Column(strategy, dict.fromkeys(LABELS, 0) | {"teacher": gib * GIB}, largest_batch)

    columns = [column("ddp", 90, 0), column("hsdp", 80, 48), column("fsdp2", 7, 64)]
    lines = [line.split() for line in str(MemoryReport("", 64, 80.0, 6.0, {True: columns})).splitlines()]
    assert ["model.encoder.checkpoint_gradients:", "true"] in lines
    assert ["teacher", "90.00", "80.00", "7.00"] in lines
    assert ["peak", "90.00", "80.00", "7.00"] in lines
    assert ["batch", "of", "64", "never", "fits", "48", "at", "most", "fits"] in lines


def test_a_recipe_gives_what_the_options_do_not(tmp_path, monkeypatch):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "trainer: {max_steps: 10}\n"
        "model: {encoder: {name: avit_tiny_patch8_224, image_size: 64}, decoder: {depth: 3}}\n"
        "data: {shards: none, batch_size: 5, num_local_views: 3, local_size: 24}\n"
    )
    asked = []
    monkeypatch.setattr(memory_module, "step_memory", lambda *each: asked.append(each) or dict.fromkeys(LABELS, 1))
    report = memory(config=recipe, gpus=16, local_size=32)
    assert [layout for *_, layout, _ in asked] == 2 * [Layout(name, 16, 8) for name in ("ddp", "hsdp", "fsdp2")]
    assert {images for _, images, *_ in asked} == {Images(5, 2, 3, 32)}
    assert [given["encoder"].checkpoint_gradients for given, *_ in asked] == [False] * 3 + [True] * 3
    assert {(given["encoder"].image_size, given["decoder"].depth) for given, *_ in asked} == {(64, 3)}
    assert report.setting.startswith("avit_tiny_patch8_224: 5 images a GPU, 2 views of 64 px and 3 of 32 px")


def test_short_names_and_local_views_that_patches_divide(monkeypatch):
    monkeypatch.setattr(memory_module, "step_memory", lambda *_: dict.fromkeys(LABELS, 1))
    assert memory(model="h").setting.startswith("avit_huge_patch14_224: 64 images a GPU, 2 views of 224 px and 8 of 98")
    assert memory(model="l").setting.startswith(
        "avit_large_patch16_224: 64 images a GPU, 2 views of 224 px and 8 of 96"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "vit"}, "model: 'vit' is not one of t, s, b, l, h, avit_tiny_patch8_224"),
        ({"gpus": 0}, "gpus: must be at least 1, got 0"),
        ({"gpus": 12}, "gpus: 12 is not a multiple of gpus_per_node, 8"),
        ({"num_local_views": -1}, "num_local_views: must be at least 0, got -1"),
        ({"image_size": 100}, "image_size: 100 is not divisible by avit_base_patch16_224's patches of 16"),
        ({"local_size": 100}, "local_size: 100 is not divisible by avit_base_patch16_224's patches of 16"),
        ({"reserve": 80.0}, "reserve: must be below gpu_memory"),
    ],
)
def test_a_users_mistake_is_one_line(wrong, message):
    with pytest.raises(UserError, match=message) as error:
        memory(**wrong)
    assert "\n" not in str(error.value)
