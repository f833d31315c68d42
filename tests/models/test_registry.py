import pytest
import timm
import torch

from arl_lightning.models import MODEL_NAMES
from arl_lightning.models.encoder import AViT

STANDARD = {  # depth, channels, heads (paper section 4.2)
    "tiny": (12, 192, 3),
    "small": (12, 384, 6),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "huge": (32, 1280, 16),
}


def test_all_sizes_and_patches_are_registered():
    expected = {f"avit_{size}_patch{patch}_224" for size in STANDARD for patch in (8, 14, 16)}
    assert set(MODEL_NAMES) == expected
    assert set(timm.list_models("avit_*")) == expected


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_sizes_are_the_standard_vits(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    _, size, patch, _ = name.split("_")
    assert (len(model.blocks), model.embed_dim, model.blocks[0].attn.num_heads) == STANDARD[size]
    assert f"patch{model.patch_size}" == patch
    assert model.grid_size == (224 // model.patch_size, 224 // model.patch_size)
    assert model.patch_embed.proj.in_channels == 1
    assert model.head.out_features == 1000


def test_arguments_pass_through_timm():
    model = timm.create_model("avit_base_patch16_224", in_chans=1, depth=1, num_classes=5, img_size=64, kernel="dense")
    assert isinstance(model, AViT)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    assert model.blocks[0].sampling.groups == 1


def test_default_configuration_is_one_channel():
    config = timm.get_pretrained_cfg("avit_base_patch16_224")
    assert config.input_size == (1, 224, 224)
    assert len(config.mean) == len(config.std) == 1


def test_there_are_no_pretrained_weights_to_load():
    with torch.device("meta"), pytest.raises(RuntimeError, match=r"[Pp]retrained"):
        timm.create_model("avit_tiny_patch16_224", pretrained=True)


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="anatomies"):
        timm.create_model("avit_tiny_patch16_224", anatomies=3)
