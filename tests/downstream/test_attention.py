"""What is drawn of attention and of sampling locations is what the block computes with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_backbone import IMAGE_SIZE, PATCH_SIZE, tiny_avit, tiny_vit

from arl_lightning.data.tasks.fit import Fit, fit_image
from arl_lightning.downstream.attention import attention_maps, attention_weights, sampling_locations
from arl_lightning.downstream.attention_figures import on_image, shown_patches, write_attention, write_offsets
from arl_lightning.downstream.encoders import Backbone, PixelBackbone
from arl_lightning.errors import UserError

GRID = IMAGE_SIZE // PATCH_SIZE
SQUARES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8))
ANATOMY = torch.tensor([3, 5])


def stirred(backbone: Backbone) -> Backbone:
    """Give a backbone weights whose attention and offsets are far from even, as training would."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in backbone.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=draw)
    return backbone.eval()


def watched(module: torch.nn.Module, backbone: Backbone) -> tuple[tuple[Any, ...], torch.Tensor]:
    """Return what a module takes and gives while the backbone encodes the squares."""
    held: list[Any] = []
    handle = module.register_forward_hook(lambda _, inputs, output: held.append((inputs, output)))
    with torch.no_grad():
        backbone(backbone.normalize(SQUARES), ANATOMY)
    handle.remove()
    return held[0]


@pytest.mark.parametrize("make", [tiny_avit, tiny_vit, lambda: tiny_avit(conditioning="none", qk_norm=True)])
def test_attention_rows_sum_to_one_and_reproduce_the_blocks_output(make: Any) -> None:
    backbone = stirred(make())
    attention = backbone.network.blocks[2].attn
    inputs, output = watched(attention, backbone)
    with torch.no_grad():
        weights, values = attention_weights(attention, inputs[0], inputs[-1])
        rebuilt = attention.proj((weights @ values).transpose(1, 2).flatten(2))
    assert weights.std() > 0.01, "even attention would prove nothing"
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(rebuilt, output, atol=1e-5, rtol=1e-5)


def test_attention_maps_are_the_class_tokens_row_and_the_patches_mean() -> None:
    backbone = stirred(tiny_avit(reg_tokens=2))
    attention = backbone.network.blocks[-1].attn
    inputs, _ = watched(attention, backbone)
    with torch.no_grad():
        weights, _ = attention_weights(attention, *inputs)
    of_class = attention_maps(backbone, SQUARES, ANATOMY)
    of_patches = attention_maps(backbone, SQUARES, ANATOMY, origin="patches")
    assert of_class.shape == (2, 2, GRID, GRID)
    for row in range(GRID):
        for column in range(GRID):
            token = 3 + row * GRID + column  # behind one class and two register tokens
            torch.testing.assert_close(of_class[:, :, row, column], weights[:, :, 0, token])
            torch.testing.assert_close(of_patches[:, :, row, column], weights[:, :, 3:, token].mean(dim=2))


def test_a_block_can_be_chosen() -> None:
    backbone = stirred(tiny_avit())
    last, first = attention_maps(backbone, SQUARES, ANATOMY), attention_maps(backbone, SQUARES, ANATOMY, 0)
    torch.testing.assert_close(last, attention_maps(backbone, SQUARES, ANATOMY, backbone.depth - 1))
    assert not torch.allclose(last, first)
    with pytest.raises(UserError, match=r"--block 4: the run's encoder has blocks 0 to 3"):
        attention_maps(backbone, SQUARES, ANATOMY, 4)


def test_looking_leaves_no_hook_behind() -> None:
    backbone = tiny_avit().eval()
    attention_maps(backbone, SQUARES, ANATOMY)
    sampling_locations(backbone, SQUARES, ANATOMY)
    assert not any(module._forward_pre_hooks for module in backbone.modules())


def test_reading_at_the_locations_gives_what_the_block_samples() -> None:
    backbone = stirred(tiny_avit())
    sampling = backbone.network.blocks[1].sampling
    (tokens, *_), output = watched(sampling, backbone)
    with torch.no_grad():
        locations, modulation = sampling_locations(backbone, SQUARES, ANATOMY, block=1)
    grid = tokens.transpose(1, 2).unflatten(2, (GRID, GRID))  # (B, N, D) -> (B, D, h, w)
    steps = locations.flip(-1) * 2 / (GRID - 1) - 1  # row, column in patches -> x, y in [-1, 1]
    read = F.grid_sample(grid, steps, padding_mode="zeros", align_corners=True)  # (B, D, N, K)
    weighted = read * modulation[:, None] * sampling.weight.flatten(1)[None, :, None]
    torch.testing.assert_close(weighted.sum(-1).transpose(1, 2), output, atol=1e-5, rtol=1e-4)


def test_a_fresh_block_reads_the_regular_grid_with_even_weight() -> None:
    locations, modulation = sampling_locations(tiny_avit().eval(), SQUARES, ANATOMY)
    patch = 1 * GRID + 2  # row 1, column 2
    expected = [[row, column] for row in (0, 1, 2) for column in (1, 2, 3)]
    torch.testing.assert_close(locations[0, patch], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(modulation, torch.ones(2, GRID**2, 9))


def test_what_has_no_such_block_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="only an A-ViT's can be drawn"):
        sampling_locations(tiny_vit(), SQUARES, ANATOMY)
    with pytest.raises(UserError, match="only an A-ViT's can be drawn"):
        sampling_locations(tiny_avit(conditioning="none"), SQUARES, ANATOMY)
    with pytest.raises(UserError, match="has no class token; use --attention_from patches"):
        attention_maps(tiny_avit(class_token=False, global_pool="avg"), SQUARES, ANATOMY)
    with pytest.raises(UserError, match="a run on pixels has no encoder"):
        attention_maps(PixelBackbone(IMAGE_SIZE, 1), SQUARES, ANATOMY)


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_points_on_the_square_lie_where_the_image_shows_the_same(fit: Fit) -> None:
    shape, size = (120, 200), 60
    row, column = 66.0, 90.0  # a bright spot's centre, inside of the middle square
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = (255 * np.exp(-((y + 0.5 - row) ** 2 + (x + 0.5 - column) ** 2) / 50)).astype(np.uint8)
    square = fit_image(image, fit, size).astype(float)
    down, along = np.mgrid[:size, :size] + 0.5
    seen = np.array([(square * down).sum(), (square * along).sum()]) / square.sum()
    np.testing.assert_allclose(on_image(seen, fit, size, shape), [row, column], atol=0.3)


def test_nine_patches_are_spread_over_the_grid() -> None:
    assert shown_patches(14) == [row * 14 + column for row in (2, 6, 11) for column in (2, 6, 11)]
    assert shown_patches(3) == list(range(9))


def test_pictures_are_written_of_images_of_any_shape(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    maps = attention_maps(stirred(tiny_avit()), SQUARES, ANATOMY)[0].numpy()
    write_attention(image, maps, "crop", IMAGE_SIZE, "class", "a $ name $", tmp_path / "a" / "b.png")
    locations, modulation = (each[0].numpy() for each in sampling_locations(tiny_avit(), SQUARES, ANATOMY))
    place = tmp_path / "c.png"
    write_offsets(image, locations, modulation, "pad", IMAGE_SIZE, PATCH_SIZE, "c", place)
    for path in (tmp_path / "a" / "b.png", place):
        assert min(Image.open(path).size) > 300
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b.png", "c.png"]
