import warnings

import pytest
import torch
import torch.nn.functional as F
from tiny_backbone import tiny_avit, tiny_vit
from torch import Tensor

from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.downstream.upernet import RegionMeans, UPerNet, mmseg_imports, spread_layers
from arl_lightning.errors import UserError

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # nothing that is built here may warn


def images(num: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(num, 1, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("make", [tiny_avit, tiny_vit])
def test_every_parameter_has_a_gradient(norm, auxiliary, make):
    network = UPerNet(make(), num_classes=3, channels=32, norm=norm, auxiliary=auxiliary)
    logits, second = network.forward_both(images(), torch.tensor([0, 3, len(ANATOMIES)]))
    assert logits.shape == (3, 3, 32, 32)
    assert (second is not None) == auxiliary
    total = logits.square().sum() + (0 if second is None else second.square().sum())
    total.backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_blocks_behind_the_last_one_used_are_gone():
    network = UPerNet(tiny_avit(depth=6), num_classes=2, channels=16, layers=(0, 1, 2, 4))
    assert len(network.backbone.network.blocks) == 5
    network(images(), torch.zeros(3, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("height", "width"), [(32, 32), (56, 24), (8, 8)])  # even, odd and single grids
def test_logits_have_the_images_size_and_levels_a_pyramids(height, width):
    network = UPerNet(tiny_avit(), num_classes=2, channels=16).eval()
    image, anatomy = images(2, height, width), torch.zeros(2, dtype=torch.int64)
    assert network(image, anatomy).shape == (2, 2, height, width)
    rows, columns = height // 8, width // 8
    shapes = [tuple(level.shape) for level in network.levels(image, anatomy)]
    halves = (-(-rows // 2), -(-columns // 2))
    expected = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns), halves]
    assert shapes == [(2, 24, *size) for size in expected]


def test_the_earliest_block_makes_the_finest_level():
    network = UPerNet(tiny_avit(), num_classes=2, channels=16).eval()
    maps = network.backbone.intermediates(images(), network.layers, None)
    levels = network.levels(images(), None)
    assert torch.equal(levels[2], maps[2])
    assert torch.equal(levels[3], F.max_pool2d(maps[3], 2))
    torch.testing.assert_close(levels[1], network.pyramid.scales[1](maps[1]))


def test_the_anatomy_reaches_the_logits():
    network = UPerNet(tiny_avit(), num_classes=2, channels=16).eval()
    for block in network.backbone.network.blocks:  # offsets start at zero, whatever the anatomy
        torch.nn.init.normal_(block.sampling.offset_pointwise.weight, generator=torch.Generator().manual_seed(1))
    first, second = (network(images(1), torch.tensor([anatomy])) for anatomy in (0, 5))
    assert not torch.allclose(first, second)


def test_without_dropout_group_norm_makes_images_independent():
    network = UPerNet(tiny_avit(), num_classes=2, channels=32, dropout=0.0).train()
    anatomy = torch.zeros(3, dtype=torch.int64)
    together = network(images(), anatomy)
    alone = torch.cat([network(image[None], anatomy[:1]) for image in images()])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())


def test_no_group_is_too_small_to_be_normalised_where_an_image_is_one_pixel():
    network = UPerNet(tiny_avit(), num_classes=2, channels=64)
    norms = [module for module in network.head.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert len(norms) == 4 + 1 + 3 + 3 + 1  # pooled branches, their joint, laterals, outputs, their joint
    assert {norm.num_channels // norm.num_groups for norm in norms} == {16}


def test_the_published_norm_is_there():
    network = UPerNet(tiny_avit(), num_classes=2, channels=32, norm="batch")
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in network.modules())
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) == 13


@pytest.mark.parametrize(("depth", "layers"), [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (4, (0, 1, 2, 3))])
def test_blocks_are_a_quarter_of_the_depth_apart(depth, layers):
    assert spread_layers(depth) == layers


@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 1, 2, 4), (-1, 0, 1, 2), (0, 2, 1, 3), (0, 1, 1, 3), ()])
def test_layers_that_the_encoder_lacks_are_refused(layers):
    with pytest.raises(UserError, match=r"^layers .*: must be 4 ascending block numbers from 0 to 3$"):
        UPerNet(tiny_avit(), num_classes=2, layers=layers)


def test_an_encoder_of_too_few_blocks_is_refused():
    with pytest.raises(UserError, match="encoder of 2 blocks: UPerNet needs 4"):
        UPerNet(tiny_avit(depth=2), num_classes=2)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (4, 5), (1, 2), (12, 6)])
def test_region_means_are_those_of_adaptive_pooling(size, height, width):
    grid = images(2, height, width).double()
    torch.testing.assert_close(RegionMeans(size)(grid), F.adaptive_avg_pool2d(grid, size))


def test_nothing_without_a_deterministic_gradient_is_left():
    network = UPerNet(tiny_avit(), num_classes=2, channels=16, auxiliary=True)
    assert not [module for module in network.modules() if isinstance(module, torch.nn.AdaptiveAvgPool2d)]


def test_one_warning_of_mmseg_is_silenced_and_no_other():
    with mmseg_imports():
        warnings.warn("Fail to import ``MultiScaleDeformableAttention`` from ``mmcv.ops``", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)
    with pytest.raises(UserWarning, match="Fail to import"):
        warnings.warn("Fail to import ``MultiScaleDeformableAttention``", UserWarning, stacklevel=1)
