import pytest
import torch
from tiny_arl import IMAGE_SIZE, LOCAL_SIZE, NO_AUGMENTATION, NUM_PATCHES, fit, part, random_batch, tiny_arl

from arl_lightning.data.augmentation import Augmentation
from arl_lightning.models.sampling import visible_positions
from arl_lightning.pretraining.options import Masking, Pixels
from arl_lightning.pretraining.views import draw_mask, drop_anatomy, make_views, stack_views

GRID = (4, 4)


def views_of(batch, augmentation=NO_AUGMENTATION, masking=Masking()):
    return make_views(batch, batch["anatomy"], augmentation, Pixels(0.2, 0.4), masking, GRID, torch.float64)


def test_views_are_stacked_view_by_view():
    batch = random_batch(3, num_local=2)
    views = views_of(batch)
    assert views.global_images.shape == (6, 1, IMAGE_SIZE, IMAGE_SIZE)
    assert views.local_images.shape == (6, 1, LOCAL_SIZE, LOCAL_SIZE)
    for view in range(2):
        for image in range(3):
            for images, crops in (
                (views.global_images, batch["global_views"]),
                (views.local_images, batch["local_views"]),
            ):
                expected = (crops[image, view].double() / 255 - 0.2) / 0.4
                torch.testing.assert_close(images[view * 3 + image], expected)


def test_pixels_are_normalised_by_mean_and_std():
    images = stack_views(torch.tensor([0.0, 0.2, 1.0]).view(1, 1, 1, 1, 3), Pixels(0.2, 0.4))
    torch.testing.assert_close(images.flatten(), torch.tensor([-0.5, 0.0, 2.0]))


def test_without_local_crops_or_masking_there_are_none():
    views = views_of(random_batch(num_local=0), masking=None)
    assert views.local_images is None
    assert views.mask is None
    assert views.visible is None


def test_visible_positions_are_those_not_masked():
    views = views_of(random_batch(3))
    assert views.mask.shape == (6, NUM_PATCHES)
    assert views.mask.sum(1).tolist() == [12] * 6
    for mask, visible in zip(views.mask, views.visible, strict=True):
        assert visible.tolist() == (~mask).nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.75])
def test_the_number_of_visible_patches_is_known(kind, ratio):
    views = views_of(random_batch(3), masking=Masking(kind, ratio))
    assert (~views.mask).sum(1).tolist() == [views.num_visible] * 6
    assert torch.equal(views.visible, visible_positions(views.mask))


def test_training_counts_no_visible_patches(monkeypatch):
    # Counting makes the process wait for its GPU.
    monkeypatch.setattr(torch.Tensor, "aminmax", lambda counts: pytest.fail("counted"))
    for choice in ({"patch_weight": 0.5}, {"student_view": "full"}, {"enabled": False}):
        fit(tiny_arl(self_distillation=choice), [random_batch()], 1)


@pytest.mark.parametrize("kind", ["random", "block"])
def test_draws_are_a_samples_own(kind):
    # Whatever else is in the batch, an image has the same augmentation and masks.
    batch = random_batch(4)
    together, alone = (views_of(each, Augmentation(), Masking(kind)) for each in (batch, part(batch, 2, 3)))
    assert not torch.equal(together.global_images, views_of(batch).global_images)
    for name in ("global_images", "local_images", "mask"):
        stacked, single = getattr(together, name), getattr(alone, name)
        torch.testing.assert_close(stacked.unflatten(0, (-1, 4))[:, 2], single, rtol=0, atol=1e-15)


def test_every_view_has_its_own_mask():
    seeds = random_batch(8)["seed"]
    masks = draw_mask(seeds, 2, (14, 14), Masking())
    assert len({tuple(mask.tolist()) for mask in masks}) == 16


def test_dropped_anatomies_become_other():
    anatomy, seeds = torch.arange(16).repeat(250), torch.arange(4000)
    assert torch.equal(drop_anatomy(anatomy, seeds, 0.0, 16), anatomy)
    assert (drop_anatomy(anatomy, seeds, 1.0, 16) == 16).all()
    dropped = drop_anatomy(anatomy, seeds, 0.1, 16)
    assert (dropped == 16).float().mean().item() == pytest.approx(0.1, abs=4 * (0.09 / 4000) ** 0.5)
    assert torch.equal(dropped[dropped != 16], anatomy[dropped != 16])
    assert torch.equal(drop_anatomy(anatomy[7:9], seeds[7:9], 0.1, 16), dropped[7:9])
