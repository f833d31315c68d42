import time
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants

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
        ("none", "vit_tiny_r_s16_p8_224", 224): "'vit_tiny_r_s16_p8_224': a hybrid, .*HybridEmbed; choose",
        ("none", "vit_nano", 32): "'vit_nano': timm knows no such model",
        ("none", NAME, 40): "image_size 40: not divisible by the patch size 16",
        ("mae:x.pth", NAME, None): "no adapter 'mae'; there are vit",
        ("vit:x.pth", NAME, None): "x.pth: no such checkpoint",
        (str(tmp_path / "x.ckpt"), NAME, None): "x.ckpt: no such checkpoint",
    }
    for (checkpoint, name, size), reason in cases.items():
        with pytest.raises(UserError, match=reason):
            open_backbone(checkpoint, Encoder(name=name), size)


@pytest.mark.parametrize("error", [ConnectionError("no route to the hub"), RuntimeError("no route to the hub")])
def test_weights_that_the_hub_does_not_give_are_told_with_the_way_out(monkeypatch, error):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: None))
    monkeypatch.setattr(timm, "create_model", failing)
    with pytest.raises(
        UserError, match=r"timm:vit_tiny_patch16_224: its weights could not be fetched .*no route.*adapter"
    ):
        open_backbone("timm:vit_tiny_patch16_224", Encoder(), None)


def test_a_machine_without_a_connection_is_told_so_at_once(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise OSError("no name server")

    def wait(seconds):
        raise AssertionError(f"waited {seconds} s to try again")

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=unreachable))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(
        UserError, match=r"could not be fetched \(ConnectionError: no answer of the hub: no name server"
    ):
        open_backbone("timm:vit_tiny_patch16_224", Encoder(), None)
    assert constants.HF_HUB_OFFLINE is False


GAP, ATTENTION_POOLED, RMS_NORMED = "test_vit2", "test_vit3", "test_vit4"  # small ones of timm's


@pytest.mark.parametrize("name", ["test_vit", GAP, ATTENTION_POOLED, RMS_NORMED, NAME])
def test_every_weight_has_a_gradient_from_pooled_features(name):
    backbone, _, _ = open_backbone("none", Encoder(name=name, drop_path=0.0), 32)
    image = backbone.normalize(IMAGE.expand(-1, backbone.in_chans, -1, -1))
    for parameter in backbone.parameters():  # fresh offsets are zero, which gives what leads to them none
        torch.nn.init.normal_(parameter, std=0.1)
    backbone.pooled(image, BREAST, "gap").square().sum().backward()
    assert [name for name, weight in backbone.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("name", [GAP, ATTENTION_POOLED])
def test_tokens_have_the_final_norm_wherever_timm_pools(name):
    backbone, _, _ = open_backbone("none", Encoder(name=name, drop_path=0.0), 32)
    tokens = backbone.eval()(torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-5)
    assert torch.allclose(tokens.std(-1, correction=0), torch.ones(tokens.shape[:2]), atol=1e-2)


@pytest.mark.parametrize("name", [GAP, ATTENTION_POOLED])
def test_timms_own_weights_reach_networks_whose_norm_moved(monkeypatch, tmp_path, name):
    source = timm.create_model(name, num_classes=0, in_chans=1, img_size=32)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    real = timm.create_model

    def create(*words, pretrained, **options):
        network = real(*words, **options)
        network.load_state_dict(source.state_dict())  # strict, as timm loads
        return network

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: None))
    monkeypatch.setattr(timm, "create_model", create)
    network = open_backbone(f"timm:{name}", Encoder(in_chans=1), 32)[0].network
    norm = source.norm if isinstance(source.fc_norm, torch.nn.Identity) else source.fc_norm
    assert torch.equal(network.norm.weight, norm.weight)
    assert torch.equal(network.blocks[-1].mlp.fc2.weight, source.blocks[-1].mlp.fc2.weight)


def test_a_file_that_was_fine_tuned_on_mean_tokens_brings_its_norm(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", num_classes=3, global_pool="avg")
    torch.nn.init.normal_(source.fc_norm.weight)
    torch.save({"model": source.state_dict()}, tmp_path / "mae.pth")
    backbone, _, _ = open_backbone(f"vit:{tmp_path / 'mae.pth'}", Encoder(name="vit_tiny_patch16_224"), None)
    assert torch.equal(backbone.network.norm.weight, source.fc_norm.weight)
    both = plain_vit({"norm.weight": torch.zeros(1), "fc_norm.weight": torch.ones(1), 3: torch.ones(1), "epoch": 3})
    assert both["norm.weight"] == 0
    assert "fc_norm.weight" not in both


@pytest.mark.parametrize("shape", [(5,), (24, 768)])
def test_an_adapted_file_whose_patches_are_embedded_otherwise_is_refused_by_name(tmp_path, shape):
    torch.save({"patch_embed.proj.weight": torch.zeros(shape)}, tmp_path / "old.pth")
    with pytest.raises(UserError, match=r"old.pth: patch_embed.proj.weight is \(.*\), not a .* of another version"):
        open_backbone(f"vit:{tmp_path / 'old.pth'}", Encoder(), None)


def test_channels_that_a_checkpoint_has_not_are_refused_by_key(tmp_path):
    spec = EncoderSpec(NAME, 32, 1, "acdt", "depthwise", 0, ("breast", "lung"))
    write_encoder(tmp_path / "grey.safetensors", spec.build(), spec)
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "colour.pth")
    with pytest.raises(UserError, match=r"^encoder.in_chans 3: .*grey.safetensors is of 1; leave the key out$"):
        open_backbone(str(tmp_path / "grey.safetensors"), Encoder(in_chans=3), None)
    tiny = {"name": "vit_tiny_patch16_224"}
    with pytest.raises(UserError, match=r"^encoder.in_chans 1: .*colour.pth is of 3; leave the key out$"):
        open_backbone(f"vit:{tmp_path / 'colour.pth'}", Encoder(**tiny, in_chans=1), None)
    assert open_backbone(str(tmp_path / "grey.safetensors"), Encoder(in_chans=1), None)[0].in_chans == 1
    assert open_backbone(f"vit:{tmp_path / 'colour.pth'}", Encoder(**tiny, in_chans=3), None)[0].in_chans == 3


def test_a_register_token_is_no_class_token():
    with pytest.raises(UserError, match=r"encoder.pooling cls: vit_wee_patch16_reg1_gap_256 has no class token"):
        open_backbone("none", Encoder(name="vit_wee_patch16_reg1_gap_256", pooling="cls"), 32)
