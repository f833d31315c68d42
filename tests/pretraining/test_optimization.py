import pytest
import torch
from tiny_arl import tiny_arl

from arl_lightning.pretraining.optimization import (
    build_optimizer,
    clip_gradients,
    drop_gradients,
    set_recipe,
    set_schedules,
)
from arl_lightning.pretraining.options import Optimization

OPTIONS = Optimization(
    base_lr=1e-3,
    discriminator_base_lr=4e-3,
    warmup_share=0.2,
    min_lr_ratio=0.5,
    weight_decay=0.1,
    weight_decay_end=0.3,
    betas=(0.8, 0.9),
    discriminator_betas=(0.4, 0.7),
)


@pytest.fixture
def module():
    return tiny_arl()


@pytest.fixture
def optimizer(module):
    return build_optimizer(module.student, module.discriminator, OPTIONS, 64)


def test_groups_have_their_networks_names_and_betas(module, optimizer):
    groups = optimizer.param_groups
    assert [group["name"] for group in groups] == ["student", "student", "discriminator", "discriminator"]
    assert [group["decays"] for group in groups] == [True, False, True, False]
    assert [group["betas"] for group in groups] == [(0.8, 0.9)] * 2 + [(0.4, 0.7)] * 2
    for name, network in (("student", module.student), ("discriminator", module.discriminator)):
        grouped = [id(p) for group in groups if group["name"] == name for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in network.parameters())


def test_without_a_discriminator_there_are_two_groups(module):
    groups = build_optimizer(module.student, None, OPTIONS, 64).param_groups
    assert [group["name"] for group in groups] == ["student"] * 2


def test_rates_scale_with_the_global_batch(optimizer):
    assert [group["peak_lr"] for group in optimizer.param_groups] == pytest.approx([2.5e-4] * 2 + [1e-3] * 2)


def test_a_resumed_optimizer_takes_this_runs_rates_and_betas(module, optimizer):
    fresh = build_optimizer(module.student, module.discriminator, Optimization(base_lr=1e-5), 256)
    fresh.load_state_dict(optimizer.state_dict())
    set_recipe(fresh, Optimization(base_lr=1e-5), 256)
    assert [group["peak_lr"] for group in fresh.param_groups] == pytest.approx([1e-5] * 2 + [1.5e-4] * 2)
    assert fresh.param_groups[0]["betas"] == (0.9, 0.95)


def test_only_matrices_and_kernels_decay(module, optimizer):
    names = {id(p): name for name, p in module.student.named_parameters()}
    decayed, kept = ({names[id(p)]: p for p in group["params"]} for group in optimizer.param_groups[:2])
    assert {p.ndim for p in decayed.values()} == {2, 4}
    vectors = ("bias", "norm1.weight", "norm2.weight", "norm.weight", "mask_token", "cls_token", "pos_embed")
    assert all(name.endswith(vectors) for name in kept)
    assert {"encoder.cls_token", "encoder.pos_embed", "decoder.mask_token"} <= kept.keys()
    assert {"encoder.blocks.0.sampling.weight", "head.last.weight", "decoder.last.weight"} <= decayed.keys()


@pytest.mark.parametrize(
    ("progress", "factor", "weight_decay"),
    [(0.0, 0.0, 0.1), (0.1, 0.5, 0.1048943), (0.2, 1.0, 0.1190983), (0.6, 0.75, 0.2309017), (1.0, 0.5, 0.3)],
)
def test_schedules_reach_every_group(optimizer, progress, factor, weight_decay):
    set_schedules(optimizer, OPTIONS, progress)
    groups = optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([2.5e-4 * factor] * 2 + [1e-3 * factor] * 2)
    assert [group["weight_decay"] for group in groups] == pytest.approx([weight_decay, 0.0] * 2)


def test_clipping_scales_one_network_to_its_largest_norm():
    first, second = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    for layer in (first, second):
        layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert clip_gradients(first.parameters(), 1.0).item() == pytest.approx(5)
    torch.testing.assert_close(first.weight.grad, torch.tensor([[0.6, 0.8]]))
    assert second.weight.grad.tolist() == [[3.0, 4.0]]
    assert clip_gradients(second.parameters(), 6.0).item() == pytest.approx(5)
    assert second.weight.grad.tolist() == [[3.0, 4.0]]


def test_the_norm_of_a_network_without_gradients_is_zero_on_its_own_device():
    norm = clip_gradients(torch.nn.Linear(2, 1, device="meta").parameters(), 1.0)
    assert norm.device.type == "meta"  # metrics of a step are stacked: one on the CPU would stop a GPU run
    assert clip_gradients(torch.nn.Linear(2, 1).parameters(), 1.0).item() == 0


def test_dropped_gradients_leave_weights_and_state_alone(module, optimizer):
    set_schedules(optimizer, OPTIONS, 0.5)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    drop_gradients(module.discriminator)
    optimizer.step()
    for name, parameter in module.named_parameters():
        if name.startswith("student"):
            assert not torch.equal(parameter, before[name]), name
        else:
            assert torch.equal(parameter, before[name]), name
    assert set(optimizer.state) == set(module.student.parameters())
