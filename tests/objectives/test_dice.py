import math

import pytest
import torch
import torch.nn.functional as F

from arl_lightning.objectives.dice import dice_loss, pixel_cross_entropy


def logits_of(foreground: list[list[float]]) -> torch.Tensor:
    """Two-class logits whose softmax gives these foreground probabilities, (1, 2, H, W)."""
    odds = torch.tensor(foreground, dtype=torch.float64).logit()
    return torch.stack((torch.zeros_like(odds), odds))[None]


def test_dice_by_hand():
    logits, target = logits_of([[0.5, 0.8], [0.1, 0.2]]), torch.tensor([[[1, 1], [0, 0]]])
    # 2 (0.5 + 0.8) = 2.6 over (0.25 + 0.64 + 0.01 + 0.04) + 2 = 2.94
    assert dice_loss(logits, target, smoothing=0).item() == pytest.approx(1 - 2.6 / 2.94)
    assert dice_loss(logits, target).item() == pytest.approx(1 - 3.6 / 3.94)


def test_images_and_structures_count_alike():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    target = torch.zeros(2, 5, 4, dtype=torch.int64)
    target[0, :, 0], target[0, :, 1:], target[1, 0, 0] = 1, 2, 2  # a structure of 1 pixel weighs as one of 15
    probabilities = logits.softmax(1)
    parts = []
    for image in (0, 1):
        for value in (1, 2):
            p, g = probabilities[image, value], (target[image] == value).double()
            parts.append(1 - (2 * (p * g).sum() + 1) / ((p * p).sum() + g.sum() + 1))
    torch.testing.assert_close(dice_loss(logits, target), torch.stack(parts).mean())
    assert len({round(part.item(), 3) for part in parts}) == 4


def test_background_has_no_dice_of_its_own():
    target = torch.tensor([[1] * 8] * 4 + [[0] * 8] * 4)[None]
    everywhere = logits_of([[1 - 1e-9] * 8] * 8)
    # The structure: 2 * 32 of 64 + 32. The background's own Dice, 1 of 33, would raise the mean.
    assert dice_loss(everywhere, target).item() == pytest.approx(1 - 65 / 97, abs=1e-6)


@pytest.mark.parametrize(("predicted", "loss"), [(1e-9, 0.0), (0.5, 1 - 1 / 17), (1 - 1e-9, 1 - 1 / 65)])
def test_an_image_without_the_structure_asks_for_none(predicted, loss):
    logits, target = logits_of([[predicted] * 8] * 8).requires_grad_(), torch.zeros(1, 8, 8, dtype=torch.int64)
    found = dice_loss(logits, target)
    assert found.item() == pytest.approx(loss, abs=1e-6)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[:, 1] > 0).all()  # pushes the foreground down


def test_the_gradient_is_that_of_differences():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 2, 3), generator=generator)
    assert torch.autograd.gradcheck(lambda values: dice_loss(values, target), logits)


def test_half_precision_logits_are_summed_in_full_precision():
    # 4096 background pixels at p = 0.01: the sum of squares in bfloat16 would stall far below.
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16)
    logits[:, 1] = math.log(0.01 / 0.99)
    p = logits.float().softmax(1)[0, 1, 0, 0].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = dice_loss(logits, torch.zeros(1, 64, 64, dtype=torch.int64))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - 1 / (4096 * p * p + 1), rel=1e-4)


def test_background_alone_is_refused():
    with pytest.raises(ValueError, match="a class beside the background"):
        dice_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))


def test_cross_entropy_is_torchs():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 5), generator=generator)
    ours, torchs = pixel_cross_entropy(logits, target), F.cross_entropy(logits, target)
    torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, torchs)))
