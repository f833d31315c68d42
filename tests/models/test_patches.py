import pytest
import torch

from arl_lightning.models.patches import patchify, unpatchify


def test_patches_by_hand():
    image = torch.arange(8.0).view(1, 1, 2, 4)  # 0 1 2 3 above 4 5 6 7
    assert patchify(image, 2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]


def test_patches_go_row_by_row():
    image = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)[None, None]
    patches = patchify(image, 4)
    assert patches.shape == (1, 6, 16)
    assert patches.mean(-1).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert patches.std(-1).max() == 0


def test_channels_are_innermost():
    image = torch.stack((torch.zeros(2, 2), torch.ones(2, 2), 2 * torch.ones(2, 2)))[None]
    assert patchify(image, 2).tolist() == [[[0, 1, 2] * 4]]


@pytest.mark.parametrize(("channels", "size", "patch_size"), [(1, (8, 8), 4), (3, (6, 12), 3), (3, (28, 14), 14)])
def test_unpatchify_undoes_patchify(channels, size, patch_size):
    image = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    grid_size = (size[0] // patch_size, size[1] // patch_size)
    assert torch.equal(unpatchify(patchify(image, patch_size), grid_size, patch_size), image)


def test_an_indivisible_image_is_refused_with_its_numbers():
    with pytest.raises(ValueError, match="image of 8 x 9 pixels is not divisible by patches of 4"):
        patchify(torch.zeros(1, 1, 8, 9), 4)
