import pytest
import torch
from torch import nn

from arl_lightning.models.decoder import Decoder

MASK = torch.tensor([[True, False, True, True, False, True], [False, True, True, True, True, False]])


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder(encoder_dim=12, grid_size=(2, 3), patch_pixels=16, depth=2, dim=16, num_heads=2).eval()


@pytest.fixture
def tokens():
    return torch.randn(2, 2, 12, generator=torch.Generator().manual_seed(0))


def test_a_prediction_of_every_patch(decoder, tokens):
    decoded = decoder(tokens, MASK)
    assert decoded.reconstruction.shape == (2, 6, 16)
    assert decoded.hidden.shape == (2, 6, 16)


def test_the_reconstruction_is_the_last_layer_of_hidden(decoder, tokens):
    """The adaptive weight (Eq. 6) takes gradients of `last` through `hidden`."""
    decoded = decoder(tokens, MASK)
    assert torch.equal(decoder.last(decoded.hidden), decoded.reconstruction)


def test_tokens_land_at_their_positions_and_mask_tokens_elsewhere(decoder, tokens):
    decoder.blocks = nn.ModuleList()
    decoder.norm = nn.Identity()
    placed = decoder(tokens, MASK).hidden - decoder.position
    visible = decoder.embed(tokens)
    expected = decoder.mask_token.detach().repeat(2, 6, 1)
    expected[0, 1], expected[0, 4] = visible[0, 0], visible[0, 1]
    expected[1, 0], expected[1, 5] = visible[1, 0], visible[1, 1]
    torch.testing.assert_close(placed, expected)


def test_positions_differ_and_are_fixed(decoder):
    distance = torch.cdist(decoder.position[0], decoder.position[0]) + 9 * torch.eye(6)
    assert distance.min() > 0.1
    assert "position" not in dict(decoder.named_parameters())
    assert "position" not in decoder.state_dict()


def test_every_visible_token_reaches_every_patch(decoder, tokens):
    tokens.requires_grad_()
    for patch in range(6):
        (gradient,) = torch.autograd.grad(decoder(tokens, MASK).reconstruction[0, patch].sum(), tokens)
        assert (gradient[0].abs().amax(-1) > 0).all()
        assert gradient[1].abs().max() == 0  # the other image


def test_unequal_masks_are_refused(decoder, tokens):
    mask = MASK.clone()
    mask[0, 0] = False
    with pytest.raises(ValueError, match="got 2-3"):
        decoder(tokens, mask)
