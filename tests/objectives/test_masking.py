import pytest
import torch

from arl_lightning.objectives.masking import NUM_BLOCKS, block_mask, num_hidden_patches, random_mask


def block_noise(num_images: int, num_patches: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_images, num_patches + 4 * NUM_BLOCKS, generator=generator, dtype=torch.float64)


def num_edges(mask: torch.Tensor, grid_size: tuple[int, int]) -> float:
    """Mean number of neighbouring pairs of which one patch is hidden and one visible."""
    grid = mask.unflatten(1, grid_size)
    down, across = grid[:, 1:] != grid[:, :-1], grid[:, :, 1:] != grid[:, :, :-1]
    return (down.sum((1, 2)) + across.sum((1, 2))).float().mean().item()


@pytest.mark.parametrize(("num_patches", "ratio", "num_hidden"), [(196, 0.75, 147), (16, 0.75, 12), (9, 0.5, 4)])
def test_a_ratio_hides_so_many_patches(num_patches, ratio, num_hidden):
    assert num_hidden_patches(num_patches, ratio) == num_hidden


@pytest.mark.parametrize(("ratio", "num_hidden"), [(0.0, 0), (0.03, 0), (0.97, 16), (1.0, 16), (1.5, 24), (-0.5, -8)])
def test_a_ratio_that_leaves_one_kind_of_patch_is_refused(ratio, num_hidden):
    with pytest.raises(ValueError, match=f"mask_ratio {ratio} hides {num_hidden} of 16 patches"):
        random_mask(torch.rand(2, 16), ratio)
    with pytest.raises(ValueError, match=f"mask_ratio {ratio} hides {num_hidden} of 16 patches"):
        block_mask(block_noise(2, 16), (4, 4), ratio)


def test_a_random_mask_hides_the_patches_with_the_least_noise():
    noise = torch.tensor([[0.5, 0.1, 0.9, 0.2], [0.3, 0.8, 0.0, 0.7]])
    assert random_mask(noise, 0.5).tolist() == [[False, True, False, True], [True, False, True, False]]


@pytest.mark.parametrize("grid_size", [(14, 14), (4, 4), (6, 10)])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75])
def test_every_image_hides_the_same_number_of_patches(grid_size, ratio):
    num_patches = grid_size[0] * grid_size[1]
    noise = block_noise(64, num_patches)
    expected = [round(num_patches * ratio)] * 64
    assert random_mask(noise[:, :num_patches], ratio).sum(1).tolist() == expected
    assert block_mask(noise, grid_size, ratio).sum(1).tolist() == expected


def test_a_mask_is_a_function_of_its_own_images_noise():
    noise = block_noise(8, 196)
    torch.manual_seed(1)
    together = block_mask(noise, (14, 14), 0.6), random_mask(noise[:, :196], 0.6)
    torch.manual_seed(2)
    alone = block_mask(noise[5:6], (14, 14), 0.6), random_mask(noise[5:6, :196], 0.6)
    assert torch.equal(together[0][5:6], alone[0])
    assert torch.equal(together[1][5:6], alone[1])
    assert len({tuple(row.tolist()) for row in together[0]}) == 8


def test_the_first_block_lies_where_its_noise_says():
    noise = block_noise(1, 100)
    # Area 0.16 of 100 patches at an aspect of 0.5 * 4 ** 0.5 = 1: a block of 4 x 4.
    for part, value in enumerate([1.0, 0.5, 1.0, 0.5]):  # area, aspect, top, left
        noise[:, 100 + part * NUM_BLOCKS] = value
    rows, columns = block_mask(noise, (10, 10), 0.16).view(10, 10).nonzero().unbind(1)
    assert rows.tolist() == [row for row in (6, 7, 8, 9) for _ in range(4)]
    assert columns.tolist() == [3, 4, 5, 6] * 4


def test_block_masks_have_far_fewer_edges_than_random_ones():
    noise = block_noise(64, 196)
    edges = num_edges(random_mask(noise[:, :196], 0.5), (14, 14))
    assert 170 < edges < 195  # half of 2 * 13 * 14 pairs
    assert num_edges(block_mask(noise, (14, 14), 0.5), (14, 14)) < 0.4 * edges
