import pytest
import torch

from arl_lightning.objectives.mim import denormalize_patches, neighbour_mean, normalize_patches, reconstruction_loss


def test_the_loss_is_the_mean_squared_error_of_hidden_patches():
    reconstruction = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]]])
    target = torch.tensor([[[1.0, 4.0], [3.0, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    # (0 + 4) / 2 = 2 and (9 + 1) / 2 = 5
    assert reconstruction_loss(reconstruction, target, mask).item() == pytest.approx(3.5)


def test_visible_patches_change_neither_loss_nor_gradient():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 6, 4, generator=generator)
    mask = torch.rand(2, 6, generator=generator) < 0.5
    results = []
    for shift in (0.0, 100.0):
        reconstruction = torch.zeros(2, 6, 4) + shift * (~mask)[..., None]
        reconstruction.requires_grad_()
        loss = reconstruction_loss(reconstruction, target, mask)
        results.append((loss, *torch.autograd.grad(loss, reconstruction)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[0][1][~mask] == 0).all()
    assert (results[0][1][mask] != 0).all()


def test_normalised_patches_have_zero_mean_and_unit_variance():
    # Mean 4 and (unbiased) variance 4 of the first; the second is constant.
    normalized = normalize_patches(torch.tensor([[[2.0, 4.0, 6.0], [5.0, 5.0, 5.0]]]))
    torch.testing.assert_close(normalized, torch.tensor([[[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]))


def test_denormalising_undoes_normalising():
    patches = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 2
    torch.testing.assert_close(denormalize_patches(normalize_patches(patches), patches), patches)


def test_the_neighbour_mean_of_a_small_grid():
    # Patch i of a 3 x 3 grid has pixels i - 1 and i + 1; only the corners 0 and 8 are visible.
    patches = torch.arange(9.0)[None, :, None] + torch.tensor([-1.0, 1.0])
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, [0, 8]] = False
    # 1, 3 see 0 alone; 5, 7 see 8 alone; 4 sees both; 2 and 6 see neither until the window has grown to 5 x 5.
    expected = [0.0, 0.0, 4.0, 0.0, 4.0, 8.0, 4.0, 8.0, 8.0]
    assert neighbour_mean(patches, mask, (3, 3)).flatten().tolist() == expected


def test_the_neighbour_mean_does_not_see_hidden_patches():
    patches = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[:, [1, 4, 5, 11]] = True
    changed = torch.where(mask[..., None], 1000.0, patches)
    assert torch.equal(neighbour_mean(patches, mask, (3, 4)), neighbour_mean(changed, mask, (3, 4)))


def test_one_visible_patch_reaches_the_whole_grid():
    patches = torch.full((1, 20, 2), 7.0)
    mask = torch.ones(1, 20, dtype=torch.bool)
    mask[0, 0] = False
    assert neighbour_mean(patches, mask, (4, 5)).flatten().tolist() == [7.0] * 20
