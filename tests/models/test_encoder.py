import pytest
import timm
import torch
from timm.models import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

from arl_lightning.models.acdt import AnatomyConditionedSampling
from arl_lightning.models.encoder import AViT

SHAPE = {"img_size": 32, "patch_size": 8, "in_chans": 1, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
NUM_ANATOMIES = 4


def avit(**kwargs) -> AViT:
    """A small A-ViT whose every sampling looks far around, and differently for each anatomy."""
    torch.manual_seed(0)
    model = AViT(**{**SHAPE, "num_anatomies": NUM_ANATOMIES, **kwargs}).eval()
    nn.init.normal_(model.pos_embed, std=0.5)
    for module in model.modules():
        if isinstance(module, AnatomyConditionedSampling):
            nn.init.normal_(module.offset_pointwise.weight, std=3 * 48**-0.5)
            nn.init.normal_(module.offset_pointwise.bias)
            nn.init.normal_(module.anatomy.fc2.weight, std=48**-0.5)
            nn.init.normal_(module.weight, std=0.5)
    return model


def images(batch: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(1))


def random_mask(num_hidden: int, batch: int = 2, num_patches: int = 16) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(num_patches, generator=draw) for _ in range(batch)]) < num_hidden


def perturb(model: nn.Module) -> None:
    """Move every parameter, so that no zero or one of the initial state hides a mistake."""
    draw = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)


ANATOMY = torch.tensor([0, 3])
OTHER = torch.tensor([NUM_ANATOMIES, NUM_ANATOMIES])


# Masking.


@pytest.mark.parametrize("kernel", ["depthwise", "grouped", "dense"])
def test_nothing_hidden_equals_no_mask(kernel):
    model = avit(kernel=kernel)
    sparse = model.forward_features(images(), ANATOMY, torch.zeros(2, 16, dtype=torch.bool))
    torch.testing.assert_close(sparse, model.forward_features(images(), ANATOMY), rtol=0, atol=1e-6)


@pytest.mark.parametrize("hidden_value", [1e9, float("nan"), float("inf")])
def test_hidden_pixels_never_reach_an_output(hidden_value):
    model, mask, image = avit(), random_mask(8), images()
    expected = model.forward_features(image, ANATOMY, mask)
    pixels = mask.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(model.forward_features(image.masked_fill(pixels, hidden_value), ANATOMY, mask), expected)


def test_a_visible_pixel_reaches_every_output():
    model, mask = avit(), random_mask(8)
    image = images().requires_grad_()
    model.forward_features(image, ANATOMY, mask)[0, 0, 0].backward()
    reached = image.grad[0, 0].unflatten(0, (4, 8)).unflatten(2, (4, 8)).abs().amax((1, 3)).flatten() > 0
    assert torch.equal(reached, ~mask[0])


def test_masked_tokens_stand_in_ascending_position():
    """Without blocks or norm, what remains of a token is its patch and its position."""
    model, mask = avit(), random_mask(10)
    model.blocks, model.norm = nn.Sequential(), nn.Identity()
    everything = model.forward_features(images())
    visible = model.forward_features(images(), mask=mask)
    assert visible.shape == (2, 1 + 6, 48)
    assert torch.equal(visible[:, :1], everything[:, :1])
    for index in range(2):
        assert torch.equal(visible[index, 1:], everything[index, 1:][~mask[index]])


def test_a_single_visible_patch():
    assert avit().forward_features(images(), ANATOMY, random_mask(15)).isfinite().all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.arange(16)[None] < torch.tensor([[3], [4]]), "got 12-13"),
        (torch.ones(2, 16, dtype=torch.bool), "got 0-0"),
        (torch.zeros(2, 15, dtype=torch.bool), "mask has 15 positions, the patch grid 4 x 4"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_with_its_numbers(mask, message):
    with pytest.raises(ValueError, match=message):
        avit().forward_features(images(), None, mask)


# Anatomy.


def test_anatomies_give_different_outputs():
    model, image = avit(), images(1).repeat(NUM_ANATOMIES + 1, 1, 1, 1)
    features = model.forward_features(image, torch.arange(NUM_ANATOMIES + 1)).flatten(1)
    distance = torch.cdist(features, features) / features.norm(dim=1)
    assert (distance + torch.eye(NUM_ANATOMIES + 1)).min() > 1e-3


def test_other_conditions_nothing():
    model = avit()
    other = model.forward_features(images(), OTHER)
    assert torch.equal(other, model.forward_features(images(), None))
    for module in model.modules():
        if isinstance(module, AnatomyConditionedSampling):
            nn.init.zeros_(module.anatomy.fc2.weight)
    assert torch.equal(other, model.forward_features(images(), ANATOMY))


def test_an_anatomy_conditions_its_own_image_only():
    model = avit()
    one = model.forward_features(images(), torch.tensor([0, 1]))
    two = model.forward_features(images(), torch.tensor([0, 2]))
    torch.testing.assert_close(one[0], two[0])
    assert not torch.allclose(one[1], two[1], atol=1e-2)


@pytest.mark.parametrize("index", [NUM_ANATOMIES + 1, -1])
def test_an_index_beyond_the_vocabulary_is_refused(index):
    with pytest.raises(RuntimeError, match="lass values must"):
        avit()(images(1), torch.tensor([index]))


# The plain ViT.


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_unconditioned_is_timms_vit_in_keys_and_outputs(size):
    kwargs = {"img_size": 32, "in_chans": 1, "num_classes": 7, "depth": 2}  # two of its twelve like blocks
    plain = timm.create_model(f"vit_{size}_patch16_224", **kwargs).eval()
    ours = timm.create_model(f"avit_{size}_patch16_224", conditioning="none", **kwargs).eval()
    image = images()
    perturb(plain)
    ours.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close(ours(image, ANATOMY), plain(image), rtol=0, atol=1e-5)
    perturb(ours)
    plain.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(plain(image), ours(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_unconditioned_has_the_published_checkpoints_shapes(size):
    with torch.device("meta"):
        plain = timm.create_model(f"vit_{size}_patch16_224")
        ours = timm.create_model(f"avit_{size}_patch16_224", conditioning="none", in_chans=3)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }


@pytest.mark.parametrize("kernel", ["depthwise", "grouped", "dense"])
def test_fresh_equals_the_plain_vit_of_the_same_weights(kernel):
    torch.manual_seed(0)
    plain = VisionTransformer(**SHAPE).eval()
    perturb(plain)
    fresh = AViT(num_anatomies=NUM_ANATOMIES, kernel=kernel, **SHAPE).eval()
    missing, unexpected = fresh.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".sampling." in name for name in missing)
    torch.testing.assert_close(fresh(images(), ANATOMY), plain(images()), rtol=0, atol=1e-5)


def test_an_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match="conditioning 'film' is not one of acdt, none"):
        avit(conditioning="film")


# Sizes, heads and feature maps.


@pytest.mark.parametrize(("height", "width"), [(96, 96), (24, 56), (8, 8)])
def test_any_size_that_the_patch_divides(height, width):
    features = avit().forward_features(images(2, height, width), ANATOMY)
    assert features.shape == (2, 1 + height // 8 * width // 8, 48)
    assert features.isfinite().all()


def test_positions_of_another_size_are_timms():
    torch.manual_seed(0)
    plain = VisionTransformer(**SHAPE, dynamic_img_size=True).eval()
    nn.init.normal_(plain.pos_embed, std=0.5)
    fresh = AViT(**SHAPE).eval()
    fresh.load_state_dict(plain.state_dict(), strict=False)
    image = images(2, 24, 56)
    torch.testing.assert_close(fresh(image), plain(image), rtol=0, atol=1e-5)


def test_an_indivisible_image_is_refused_with_its_numbers():
    with pytest.raises(ValueError, match="image of 32 x 36 pixels is not divisible by patches of 8"):
        avit()(images(2, 32, 36))


def test_classifies_by_the_class_token():
    model = avit()
    features = model.forward_features(images(), ANATOMY)
    torch.testing.assert_close(model(images(), ANATOMY), model.head(features[:, 0]))
    assert avit(num_classes=0)(images()).shape == (2, 48)


def test_pools_patch_tokens_when_asked():
    model = avit(global_pool="avg", num_classes=0, fc_norm=False)
    patches = model.forward_features(images(), ANATOMY)[:, 1:]
    torch.testing.assert_close(model(images(), ANATOMY), patches.mean(1))


def test_register_tokens_are_neither_sampled_nor_masked():
    model = avit(reg_tokens=4)
    assert model.forward_features(images(), ANATOMY).shape == (2, 1 + 4 + 16, 48)
    assert model.forward_features(images(), ANATOMY, random_mask(10)).shape == (2, 1 + 4 + 6, 48)
    sampled = []
    model.blocks[0].sampling.register_forward_pre_hook(lambda _, arguments: sampled.append(arguments[0].shape))
    model.forward_features(images(), ANATOMY, random_mask(10))
    assert sampled == [(2, 6, 48)]


def test_intermediates_are_the_blocks_outputs_as_maps():
    model, image, outputs = avit(reg_tokens=1), images(2, 24, 40), []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    features, maps = model.forward_intermediates(image, anatomy=ANATOMY)
    torch.testing.assert_close(features, model.forward_features(image, ANATOMY))
    assert [tuple(each.shape) for each in maps] == [(2, 48, 3, 5)] * 3
    for each, output in zip(maps, outputs[:3], strict=True):
        assert torch.equal(each.flatten(2).transpose(1, 2), output[:, 2:])


def test_intermediates_that_are_asked_for():
    model = avit()
    features, maps = model.forward_intermediates(images(), anatomy=ANATOMY)
    assert torch.equal(model.forward_intermediates(images(), anatomy=ANATOMY, indices=[1])[1][0], maps[1])
    last = model.forward_intermediates(images(), anatomy=ANATOMY, indices=1, norm=True)[1]
    assert len(last) == 1
    torch.testing.assert_close(last[0].flatten(2).transpose(1, 2), features[:, 1:])


# Training.


def gradients(model: AViT, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.forward_features(images(), ANATOMY, mask).float().square().mean().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients():
    model = avit().train()
    expected = gradients(model, random_mask(8))
    model.set_grad_checkpointing()
    calls = []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradients(model, random_mask(8)), expected)
    assert len(calls) == 2  # forward, and once more in backward


def test_every_parameter_but_the_classifiers_is_trained():
    model = avit()
    trained = {name for name, gradient in gradients(model, random_mask(8)).items() if gradient.abs().max() > 0}
    assert {name for name, _ in model.named_parameters()} - trained == {"head.weight", "head.bias"}


def test_bfloat16_autocast_is_near_float32():
    model, mask = avit(), random_mask(8)
    with torch.no_grad():  # of a trained model's scale: rounding grows with every patch that an offset spans
        for module in model.modules():
            if isinstance(module, AnatomyConditionedSampling):
                module.offset_pointwise.weight *= 0.3
    features, expected = model.forward_features(images(), ANATOMY, mask), gradients(model, mask)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.forward_features(images(), ANATOMY, mask)
        rounded = gradients(model, mask)
    assert (half - features).norm() < 0.02 * features.norm()
    flat, near = (torch.cat([each.flatten() for each in grads.values()]) for grads in (expected, rounded))
    assert near.isfinite().all()
    assert torch.cosine_similarity(flat, near, dim=0) > 0.99


def test_layer_decay_covers_every_parameter():
    """At 0.5 a layer: head 1, the last of 3 blocks 0.5, the embeddings 1/16."""
    model = avit()
    scales = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
        for parameter in group["params"]
    }
    named = {name: scales[id(parameter)] for name, parameter in model.named_parameters()}
    assert {name: named[name] for name in ("head.weight", "patch_embed.proj.weight", "pos_embed", "cls_token")} == {
        "head.weight": 1, "patch_embed.proj.weight": 1 / 16, "pos_embed": 1 / 16, "cls_token": 1 / 16,
    }  # fmt: skip
    for index in range(3):
        in_block = {scale for name, scale in named.items() if name.startswith(f"blocks.{index}.")}
        assert in_block == {0.5 ** (3 - index)}


def test_runs_on_the_meta_device():
    with torch.device("meta"):
        model, image = AViT(**SHAPE), torch.empty(2, 1, 32, 32)
        assert model(image, torch.empty(2, dtype=torch.long)).shape == (2, 5)


def test_timms_feature_interfaces_work():
    model = timm.create_model("avit_tiny_patch16_224", depth=4, img_size=64, num_classes=0).eval()
    image = torch.rand(2, 1, 64, 96)
    (_, maps), pairs = (
        model.forward_intermediates(image),
        model.get_intermediate_layers(image, 2, reshape=True, return_prefix_tokens=True),
    )
    assert [tuple(patches.shape) for patches, _ in pairs] == [(2, 192, 4, 6)] * 2
    assert all(torch.equal(patches, expected) for (patches, _), expected in zip(pairs, maps[2:], strict=True))
    assert pairs[0][1].shape == (2, 1, 192)
    extractor = timm.create_model("avit_tiny_patch16_224", depth=4, img_size=64, features_only=True).eval()
    assert [tuple(found.shape) for found in extractor(image)] == [(2, 192, 4, 6)] * 3
