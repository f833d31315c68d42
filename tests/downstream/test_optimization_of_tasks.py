import pytest
import timm
import torch
from torch import nn

import arl_lightning.models  # noqa: F401 (registers A-ViT)
from arl_lightning.downstream.optimization import (
    configure,
    learning_rate_factor,
    parameter_groups,
    peak_learning_rate,
)
from arl_lightning.downstream.options import Devices, Encoder, Neighbours, Optimization
from arl_lightning.errors import UserError


def test_the_rate_is_scaled_by_the_global_batch_or_not():
    assert peak_learning_rate(Optimization(base_lr=1e-3), 64) == pytest.approx(2.5e-4)
    assert peak_learning_rate(Optimization(base_lr=1e-3, scale_lr=False), 64) == 1e-3


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (9, 1.0), (10, 1.0), (60, 0.55), (110, 0.1), (500, 0.1)])
def test_the_rate_rises_linearly_and_falls_along_a_cosine(step, factor):
    assert learning_rate_factor(step, warmup=10, total=110, min_ratio=0.1) == pytest.approx(factor)


def test_each_block_has_the_next_ones_rate_times_the_decay_and_every_weight_is_in_one_group():
    encoder = timm.create_model("avit_tiny_patch16_224", img_size=32, num_classes=0)
    head = nn.Linear(192, 2)
    options = Optimization(base_lr=1.0, scale_lr=False, layer_decay=0.5, weight_decay=0.1)
    groups = parameter_groups(encoder, head, options)
    optimizer = configure(groups, options, 1.0, 10)["optimizer"]
    rate, decay = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert parameter not in rate
            rate[parameter], decay[parameter] = group["initial_lr"], group["weight_decay"]
    assert set(rate) == {*encoder.parameters(), *head.parameters()}
    last, first = encoder.blocks[-1], encoder.blocks[0]
    assert rate[head.weight] == 1.0
    assert rate[last.attn.qkv.weight] == rate[last.sampling.weight] == 1.0
    assert rate[encoder.blocks[-2].attn.qkv.weight] == 0.5
    assert rate[first.attn.qkv.weight] == pytest.approx(0.5**11)
    assert rate[encoder.patch_embed.proj.weight] == pytest.approx(0.5**12)
    assert decay[last.attn.qkv.weight] == decay[head.weight] == 0.1
    assert decay[last.attn.qkv.bias] == decay[head.bias] == decay[encoder.pos_embed] == decay[encoder.cls_token] == 0


def test_appendix_b_is_the_default_of_fine_tuning():
    options = Optimization()
    assert (options.optimizer, options.base_lr, options.betas, options.warmup_epochs) == (
        "adamw",
        1e-3,
        (0.9, 0.999),
        5,
    )
    optimizer = configure([{"params": [nn.Parameter(torch.zeros(1))]}], options, 1e-3, 10)["optimizer"]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_linear_probing_steps_as_sgd_with_momentum():
    weight = nn.Parameter(torch.tensor([1.0]))
    options = Optimization(optimizer="sgd", warmup_epochs=0, weight_decay=0.0)
    optimizer = configure([{"params": [weight], "weight_decay": 0.0}], options, 0.1, 1000)["optimizer"]
    for _ in range(2):
        weight.grad = torch.tensor([1.0])
        optimizer.step()
    assert float(weight.detach()) == pytest.approx(1 - 0.1 - 0.1 * 1.9)


def test_an_optimizer_without_steps_is_refused():
    with pytest.raises(ValueError, match="optimizer lbfgs: takes no steps"):
        configure([{"params": [nn.Parameter(torch.zeros(1))]}], Optimization(optimizer="lbfgs"), 0.1, 10)


NAN = float("nan")
INF = float("inf")
OUTSIDE = [
    (Optimization, "epochs", (0, NAN), "at least 1"),
    (Optimization, "base_lr", (0.0, -1.0, NAN, INF), "above 0"),
    (Optimization, "weight_decay", (-0.1, NAN, INF), "at least 0"),
    (Optimization, "clip", (-1.0, NAN, INF), "at least 0"),
    (Optimization, "warmup_epochs", (-1.0, NAN, INF), "at least 0"),
    (Optimization, "patience", (-1, NAN), "at least 0"),
    (Optimization, "layer_decay", (0.0, 1.5, NAN), "above 0 and at most 1"),
    (Optimization, "min_lr_ratio", (-0.1, 1.1, NAN), "at least 0 and at most 1"),
    (Optimization, "momentum", (-0.1, 1.0, NAN), "at least 0 and below 1"),
    (Optimization, "label_smoothing", (-0.1, 1.0, NAN), "at least 0 and below 1"),
    (Encoder, "drop_path", (-0.1, 1.0, NAN), "at least 0 and below 1"),
    (Encoder, "in_chans", (0, 2, 4), "1 or 3"),
    (Devices, "devices", (0, -1), "at least 1"),
    (Devices, "num_nodes", (0,), "at least 1"),
    (Neighbours, "k", (0,), "at least 1"),
    (Neighbours, "temperature", (0.0, -1.0, NAN, INF), "above 0"),
]


@pytest.mark.parametrize(("group", "name", "values", "words"), OUTSIDE)
def test_values_without_sense_are_refused_by_key(group, name, values, words):
    for value in values:
        with pytest.raises(UserError, match=f"^{group.__name__.lower()}.{name} {value:g}: must be {words}$"):
            group(**{name: value})


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.999), (NAN, 0.9)])
def test_each_of_adamws_two_averages_forgets(betas):
    with pytest.raises(UserError, match=r"optimization.betas (1|-0.1|nan): must be at least 0 and below 1"):
        Optimization(betas=betas)


def test_the_ends_of_ranges_have_sense():
    zeros = ("weight_decay", "clip", "warmup_epochs", "patience", "min_lr_ratio", "momentum", "label_smoothing")
    Optimization(epochs=1, layer_decay=1.0, betas=(0.0, 0.0), **dict.fromkeys(zeros, 0))
    Optimization(min_lr_ratio=1.0)
    for in_chans in (None, 1, 3):
        Encoder(in_chans=in_chans, drop_path=0.0)
    Devices(devices=1, num_nodes=1)
    Neighbours(k=1)
