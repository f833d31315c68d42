import pytest
import timm
import torch

from arl_lightning.downstream.adapters import IMAGENET_MEAN, plain_vit
from arl_lightning.downstream.encoders import Backbone, PixelBackbone, file_sha256, open_backbone, rebuild
from arl_lightning.downstream.options import Encoder
from arl_lightning.errors import UserError
from arl_lightning.models.weights import EncoderSpec, write_encoder

NAME = "avit_tiny_patch16_224"
TINY = Encoder(name=NAME, drop_path=0.0)
IMAGE = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BREAST = torch.tensor([3, 3])


def features(backbone: Backbone, anatomy=BREAST, image=IMAGE, pooling="gap"):
    backbone.eval()
    with torch.no_grad():
        return backbone.pooled(backbone.normalize(image.expand(-1, backbone.in_chans, -1, -1)), anatomy, pooling)


def test_random_weights_follow_torchs_generator():
    torch.manual_seed(0)
    one, _, size = open_backbone("none", TINY, 32)
    torch.manual_seed(0)
    other, _, _ = open_backbone("none", TINY, 32)
    assert size == 32
    assert torch.equal(features(one), features(other))


def test_features_are_the_mean_of_patch_tokens_or_the_class_token():
    backbone, _, _ = open_backbone("none", TINY, 32)
    backbone.eval()
    tokens = backbone(backbone.normalize(IMAGE), BREAST)  # (B, 1 + 4, D)
    assert torch.allclose(features(backbone), tokens[:, 1:].mean(1), atol=1e-6)
    assert torch.allclose(features(backbone, pooling="cls"), tokens[:, 0], atol=1e-6)


def test_pixels_are_normalised_by_what_the_checkpoint_says():
    backbone, _, _ = open_backbone("none", TINY, 32)
    white = backbone.normalize(torch.full((1, 1, 32, 32), 255, dtype=torch.uint8))
    assert torch.allclose(white, torch.full_like(white, (1 - 0.25) / 0.23))


def test_an_exported_encoder_gives_its_own_features_size_and_hash(tmp_path):
    path = tmp_path / "encoder.safetensors"
    spec = EncoderSpec(NAME, 32, 1, "acdt", "depthwise", 0, ("breast", "lung"), 0.5, 0.5)
    encoder = spec.build().eval()
    write_encoder(path, encoder, spec)
    backbone, origin, size = open_backbone(str(path), Encoder(name="not used"), None)
    assert (size, origin.model, origin.sha256) == (32, NAME, file_sha256(path))
    assert backbone.vocabulary.names == ("breast", "lung")
    expected = encoder.forward_features((IMAGE.float() / 255 - 0.5) / 0.5, torch.tensor([0, 1]))
    assert torch.allclose(features(backbone, torch.tensor([0, 1])), expected[:, 1:].mean(1), atol=1e-6)


def test_the_anatomy_reaches_a_visual_transformer_that_is_told_it():
    torch.manual_seed(0)
    backbone, _, _ = open_backbone("none", TINY, 32)
    for block in backbone.network.blocks:  # fresh offsets are zero whatever the anatomy
        torch.nn.init.normal_(block.sampling.offset_pointwise.weight, std=0.5)
    other = torch.tensor([16, 16])
    assert backbone.is_conditioned
    assert not torch.allclose(features(backbone), features(backbone, other))
    assert torch.allclose(features(backbone, None), features(backbone, other))
    plain, _, _ = open_backbone("none", Encoder(name="vit_tiny_patch16_224"), 32)
    assert not plain.is_conditioned
    assert torch.equal(features(plain), features(plain, other))


def test_weights_of_another_project_come_through_an_adapter(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=224).eval()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": {**state, "module.decoder_pred.weight": torch.zeros(2)}}, tmp_path / "mae.pth")
    backbone, origin, size = open_backbone(f"vit:{tmp_path / 'mae.pth'}", Encoder(name="vit_tiny_patch16_224"), 224)
    assert (backbone.in_chans, backbone.mean, size) == (3, IMAGENET_MEAN, 224)
    assert origin.sha256 == file_sha256(tmp_path / "mae.pth")
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(backbone.eval()(image), network.forward_features(image), atol=1e-5)


def test_the_plain_adapter_leaves_heads_and_decoders_out():
    kept = plain_vit({"head.weight": torch.zeros(1), "decoder_embed.bias": torch.zeros(1), "cls_token": torch.ones(1)})
    assert list(kept) == ["cls_token"]


@pytest.mark.parametrize("name", [NAME, "vit_tiny_patch16_224"])
def test_a_backbone_is_rebuilt_from_plain_values(name):
    backbone, _, _ = open_backbone("none", Encoder(name=name, drop_path=0.0), 32)
    again = rebuild(backbone.construction)
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(features(backbone), features(again))


def test_pixels_are_features_of_their_own():
    backbone, origin, size = open_backbone("pixels", Encoder(), 32)
    assert isinstance(backbone, PixelBackbone)
    assert (origin.model, size, backbone.embed_dim) == ("pixels", 32, 1024)
    assert torch.allclose(features(backbone), IMAGE.flatten(1) / 255)
    assert rebuild(backbone.construction).embed_dim == 1024


def test_models_and_checkpoints_that_cannot_be_used_are_refused_in_a_line(tmp_path):
    cases = {
        ("none", "resnet18", 32): "'resnet18': not a vision transformer",
        ("none", "vit_nano", 32): "'vit_nano': timm knows no such model",
        ("none", NAME, 40): "image_size 40: not divisible by the patch size 16",
        ("mae:x.pth", NAME, None): "no adapter 'mae'; there are vit",
        ("vit:x.pth", NAME, None): "x.pth: no such checkpoint",
        (str(tmp_path / "x.ckpt"), NAME, None): "x.ckpt: no such checkpoint",
    }
    for (checkpoint, name, size), reason in cases.items():
        with pytest.raises(UserError, match=reason):
            open_backbone(checkpoint, Encoder(name=name), size)


def test_weights_that_the_hub_does_not_give_are_told_with_the_way_out(monkeypatch):
    def offline(*_, pretrained=False, **__):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        UserError, match=r"timm:vit_tiny_patch16_224: its weights could not be fetched .*no route.*adapter"
    ):
        open_backbone("timm:vit_tiny_patch16_224", Encoder(), None)
