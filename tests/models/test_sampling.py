import pytest
import torch
from torchvision.ops import deform_conv2d

from arl_lightning.models import sampling
from arl_lightning.models.acdt import AnatomyConditionedSampling
from arl_lightning.models.sampling import TokenLayout, bilinear_corners, visible_positions, weighted_gather

HEIGHT, WIDTH, DIM = 5, 7, 16
KERNELS = ("depthwise", "grouped", "dense")


def inputs(num_tokens: int, batch: int = 2) -> list[torch.Tensor]:
    """Tokens, offsets that often leave the grid, and modulation, in float64."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, num_tokens, DIM, generator=draw, dtype=torch.float64)
    offsets = 3 * torch.randn(batch, num_tokens, 9, 2, generator=draw, dtype=torch.float64)
    modulation = 2 * torch.rand(batch, num_tokens, 9, generator=draw, dtype=torch.float64)
    return [tensor.requires_grad_() for tensor in (tokens, offsets, modulation)]


def layer_of(kernel: str) -> AnatomyConditionedSampling:
    layer = AnatomyConditionedSampling(DIM, 3, kernel).double()
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    return layer


def reference(grid, offsets, modulation, weight):
    """Run torchvision's deformable convolution on a full grid: offsets in (row, column) pairs before the positions."""
    batch = grid.shape[0]
    offsets = offsets.permute(0, 2, 3, 1).reshape(batch, 18, HEIGHT, WIDTH)
    mask = modulation.transpose(1, 2).reshape(batch, 9, HEIGHT, WIDTH)
    return deform_conv2d(grid, offsets, weight, padding=1, mask=mask).flatten(2).transpose(1, 2)


def random_mask(num_hidden: int, batch: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    order = torch.stack([torch.randperm(HEIGHT * WIDTH, generator=draw) for _ in range(batch)])
    return order < num_hidden


@pytest.mark.parametrize("kernel", KERNELS)
def test_equation_1_is_torchvisions_deformable_convolution(kernel):
    layer, variables = layer_of(kernel), inputs(HEIGHT * WIDTH)
    layout = TokenLayout(HEIGHT, WIDTH)
    tokens, offsets, modulation = variables
    ours = layer.sample(tokens, offsets, modulation, layout)
    theirs = reference(layout.to_grid(tokens), offsets, modulation, layer.weight)
    torch.testing.assert_close(ours, theirs)

    cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    variables.append(layer.weight)
    expected = torch.autograd.grad(theirs, variables, cotangent)
    assert all(gradient.abs().max() > 0.1 for gradient in expected)
    torch.testing.assert_close(torch.autograd.grad(ours, variables, cotangent), expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_hidden_positions_are_zero_padding(kernel):
    layer, mask = layer_of(kernel), random_mask(20)
    layout = TokenLayout.from_mask(mask, HEIGHT, WIDTH)
    tokens, offsets, modulation = inputs(HEIGHT * WIDTH - 20)
    ours = layer.sample(tokens, offsets, modulation, layout)

    visible = ~mask
    full_offsets = torch.zeros(2, HEIGHT * WIDTH, 9, 2, dtype=torch.float64)
    full_modulation = torch.zeros(2, HEIGHT * WIDTH, 9, dtype=torch.float64)
    full_tokens = torch.zeros(2, HEIGHT * WIDTH, DIM, dtype=torch.float64)
    full_offsets[visible], full_modulation[visible] = offsets.flatten(0, 1), modulation.flatten(0, 1)
    full_tokens[visible] = tokens.flatten(0, 1)
    theirs = reference(TokenLayout(HEIGHT, WIDTH).to_grid(full_tokens), full_offsets, full_modulation, layer.weight)
    torch.testing.assert_close(ours, theirs[visible].view_as(ours))


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_hidden_equals_no_mask(kernel):
    layer, (tokens, offsets, modulation) = layer_of(kernel), inputs(HEIGHT * WIDTH)
    nothing = TokenLayout.from_mask(torch.zeros(2, HEIGHT * WIDTH, dtype=torch.bool), HEIGHT, WIDTH)
    sparse = layer.sample(tokens, offsets, modulation, nothing)
    assert torch.equal(sparse, layer.sample(tokens, offsets, modulation, TokenLayout(HEIGHT, WIDTH)))


def test_the_table_may_be_built_in_parts(monkeypatch):
    layer, (tokens, offsets, modulation) = layer_of("depthwise"), inputs(HEIGHT * WIDTH, batch=3)
    whole = layer.sample(tokens, offsets, modulation, TokenLayout(HEIGHT, WIDTH))
    monkeypatch.setattr(sampling, "CPU_TABLE_BYTES", 2 * 8 * 9 * HEIGHT * WIDTH * DIM)  # two images, then one
    assert torch.equal(layer.sample(tokens, offsets, modulation, TokenLayout(HEIGHT, WIDTH)), whole)
    monkeypatch.setattr(sampling, "CPU_TABLE_BYTES", 1)
    assert torch.equal(layer.sample(tokens, offsets, modulation, TokenLayout(HEIGHT, WIDTH)), whole)


def test_bilinear_weights_by_hand():
    # 2 rows, 3 columns. A quarter of the way down, halfway between columns 1 and 2: cell of rows 0-1, columns 1-2.
    rows, weights = bilinear_corners(torch.tensor([[[[0.25, 1.5]]]]), TokenLayout(2, 3))
    assert rows.tolist() == [[[[1, 2, 4, 5]]]]
    assert weights.tolist() == [[[[0.375, 0.375, 0.125, 0.125]]]]


@pytest.mark.parametrize(
    ("location", "inside"),
    [
        ((-0.5, 0.0), 0.5),  # half a row above
        ((-0.5, -0.5), 0.25),
        ((1.75, 2.5), 0.125),  # past the last row and column
        ((-1.0, 0.0), 0.0),
        ((0.0, 3.0), 0.0),
        ((1e30, -1e30), 0.0),  # no integer wraps round into the grid
    ],
)
def test_the_border_is_padded_with_zeros(location, inside):
    rows, weights = bilinear_corners(torch.tensor([[[location]]], dtype=torch.float64), TokenLayout(2, 3))
    assert weights.sum().item() == inside
    assert 0 <= rows.min() <= rows.max() < 6


def test_a_hidden_corner_weighs_nothing():
    layout = TokenLayout.from_mask(torch.tensor([[False, True, False, False]]), 2, 2)
    rows, weights = bilinear_corners(torch.tensor([[[[0.5, 0.5]]]]), layout)
    assert weights.tolist() == [[[[0.25, 0.0, 0.25, 0.25]]]]
    assert rows[weights > 0].tolist() == [0, 1, 2]  # visible positions 0, 2, 3 hold tokens 0, 1, 2


def test_weighted_gather_reads_each_images_own_table():
    table = torch.tensor([[[1.0], [2.0]], [[10.0], [20.0]]])
    rows = torch.tensor([[[0, 1]], [[1, 1]]])
    weights = torch.tensor([[[0.5, 2.0]], [[1.0, -0.5]]])
    assert weighted_gather(table, rows, weights).tolist() == [[[4.5]], [[10.0]]]


def test_grid_round_trip_and_zeros_at_hidden_positions():
    mask = torch.tensor([[True, False, False, True, False, True], [False, True, True, False, True, False]])
    layout = TokenLayout.from_mask(mask, 2, 3)
    tokens = torch.arange(1.0, 7.0).view(2, 3, 1)
    grid = layout.to_grid(tokens)
    assert grid.tolist() == [[[[0, 1, 2], [0, 3, 0]]], [[[4, 0, 0], [5, 0, 6]]]]
    assert torch.equal(layout.from_grid(grid), tokens)
    assert layout.rows.tolist() == [[-1, 0, 1, -1, 2, -1], [0, -1, -1, 1, -1, 2]]
    assert layout.coordinates(mask.device, torch.float32)[0].tolist() == [[0, 1], [0, 2], [1, 1]]


def test_visible_positions_ascend():
    assert visible_positions(torch.tensor([[True, False, True, False]])).tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[True, False, False, False], [True, True, False, False]], "got 2-3"),
        ([[True] * 4], "got 0-0"),
        ([[False] * 5], "mask has 5 positions, the patch grid 2 x 2"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_with_its_numbers(mask, message):
    with pytest.raises(ValueError, match=message):
        TokenLayout.from_mask(torch.tensor(mask), 2, 2)
