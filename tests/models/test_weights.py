import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from arl_lightning.errors import UserError
from arl_lightning.models.weights import (
    METADATA_KEY,
    EncoderSpec,
    encoder_of_checkpoint,
    read_checkpoint,
    read_encoder,
    resize,
    write_encoder,
)
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.options import Decoder, Encoder, Pixels, SelfDistillation

SPEC = EncoderSpec("avit_tiny_patch16_224", 32, 1, "acdt", "depthwise", 0, ("breast", "lung"), 0.3, 0.2)


def test_an_encoder_is_rebuilt_from_safetensors(tmp_path):
    encoder = SPEC.build()
    write_encoder(tmp_path / "encoder.safetensors", encoder, SPEC, {"note": "x"})
    rebuilt, spec = read_encoder(tmp_path / "encoder.safetensors")
    assert spec == SPEC
    assert all(torch.equal(value, rebuilt.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.safetensors"]


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_either_network_is_taken_from_a_pretraining_checkpoint(tmp_path, network):
    module = ARL(
        encoder=Encoder("avit_tiny_patch16_224", image_size=32),
        decoder=Decoder(1, 16, 2),
        pixels=Pixels(0.3, 0.2),
        self_distillation=SelfDistillation(num_prototypes=8, hidden_dim=8, bottleneck_dim=4),
        anatomies=["breast", "lung"],
    )
    module.configure_model()
    with torch.no_grad():
        module.student.encoder.pos_embed.add_(1)  # so that the two differ
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    encoder, spec = encoder_of_checkpoint(tmp_path / "last.ckpt", network)
    assert spec == SPEC
    assert torch.equal(encoder.pos_embed, getattr(module, network).encoder.pos_embed)


def test_other_image_sizes_interpolate_the_positions():
    encoder = SPEC.build()
    image = torch.zeros(1, 1, 64, 64)
    expected = encoder.forward_features(image)  # interpolates at each call
    assert resize(encoder, SPEC, 64).image_size == 64
    assert encoder.pos_embed.shape[1] == 1 + 16
    assert torch.allclose(encoder.forward_features(image), expected, atol=1e-5)
    with pytest.raises(UserError, match="image_size 40: not divisible by the patch size 16"):
        resize(encoder, SPEC, 40)


def test_files_that_are_no_encoders_are_refused_by_name(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no safetensors")
    torch.save({"x": 1}, tmp_path / "other.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match=r"foreign.safetensors: has no 'arl_encoder' header; name an adapter"):
        read_encoder(foreign)
    with pytest.raises(UserError, match=r"broken.safetensors: not a readable safetensors file"):
        read_encoder(broken)
    with pytest.raises(UserError, match=r"missing.safetensors: no such file"):
        read_encoder(tmp_path / "missing.safetensors")
    with pytest.raises(UserError, match=r"other.ckpt: not a checkpoint of `arl pretrain`"):
        encoder_of_checkpoint(tmp_path / "other.ckpt", "teacher")
    for name, reason in (("list", "holds no dictionary"), ("broken", "not a readable"), ("missing", "no such")):
        with pytest.raises(UserError, match=f"{name}.ckpt: {reason}"):
            read_checkpoint(tmp_path / f"{name}.ckpt")


def test_weights_of_another_network_are_refused_with_the_first_difference(tmp_path):
    wide = EncoderSpec("avit_small_patch16_224", 32, 1, "acdt", "depthwise", 0, ("breast", "lung"))
    write_encoder(tmp_path / "wide.safetensors", wide.build(), SPEC)
    with pytest.raises(UserError, match=r"cls_token is \(1, 1, 384\), this network's \(1, 1, 192\)"):
        read_encoder(tmp_path / "wide.safetensors")
    plain = EncoderSpec("avit_tiny_patch16_224", 32, 1, "none", "depthwise", 0, ("breast", "lung"))
    write_encoder(tmp_path / "plain.safetensors", plain.build(), SPEC)
    with pytest.raises(UserError, match=r"lacks blocks.0.sampling.*\(\d+ missing, 0 foreign weights\)"):
        read_encoder(tmp_path / "plain.safetensors")


SPEC_FIELDS = {**asdict(SPEC), "anatomies": list(SPEC.anatomies)}
RECIPE = {
    "encoder": {name: value for name, value in SPEC_FIELDS.items() if name not in ("anatomies", "mean", "std")},
    "pixels": {"mean": 0.3, "std": 0.2},
    "anatomies": ["breast", "lung"],
}


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"arl": {}, "state_dict": {}},
        {"arl": [], "state_dict": {}},
        {"arl": {"recipe": RECIPE}},
        {"arl": {"recipe": RECIPE}, "state_dict": 1},
        {"arl": {"recipe": {**RECIPE, "encoder": {}}}, "state_dict": {}},
        {"arl": {"recipe": {**RECIPE, "pixels": {"median": 0.3}}}, "state_dict": {}},
        {"arl": {"recipe": {**RECIPE, "anatomies": None}}, "state_dict": {}},
    ],
)
def test_checkpoints_that_describe_no_encoder_are_refused_by_name(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt: its encoder .* damaged or of another version \(\w+: [^\n]*\)"):
        encoder_of_checkpoint(tmp_path / "last.ckpt", "teacher")


def test_a_checkpoint_with_a_description_but_without_weights_is_refused_by_what_it_lacks(tmp_path):
    torch.save({"arl": {"recipe": RECIPE}, "state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt: lacks blocks.0"):
        encoder_of_checkpoint(tmp_path / "last.ckpt", "teacher")


@pytest.mark.parametrize(
    "header",
    [
        "{no json",
        "[]",
        json.dumps({name: value for name, value in SPEC_FIELDS.items() if name != "kernel"}),
        json.dumps({name: value for name, value in SPEC_FIELDS.items() if name != "anatomies"}),
        json.dumps({**SPEC_FIELDS, "more": 1}),
        json.dumps({**SPEC_FIELDS, "image_size": "large"}),
        json.dumps({**SPEC_FIELDS, "image_size": 0}),
        json.dumps({**SPEC_FIELDS, "conditioning": "other"}),
    ],
)
def test_headers_that_describe_no_encoder_are_refused_by_name(tmp_path, header):
    save_file({"x": torch.zeros(1)}, tmp_path / "encoder.safetensors", {METADATA_KEY: header})
    with pytest.raises(UserError, match=r"encoder.safetensors: its encoder .* of another version \(\w+: [^\n]*\)"):
        read_encoder(tmp_path / "encoder.safetensors")


def test_a_folder_is_told_with_the_file_of_it_to_give(tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path}: is a folder; give a checkpoint's file$"):
        read_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("epoch_9.ckpt", "last.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    with pytest.raises(UserError, match=rf"^{tmp_path}: is a folder; give its file {tmp_path}/checkpoints/last.ckpt$"):
        encoder_of_checkpoint(tmp_path, "teacher")
    folder = tmp_path / "x.safetensors"
    folder.mkdir()
    (folder / "encoder.safetensors").touch()
    with pytest.raises(UserError, match=r"x.safetensors: is a folder; give its file .*encoder.safetensors"):
        read_encoder(folder)


def test_a_checkpoint_of_a_task_is_told_apart_from_a_foreign_one(tmp_path):
    torch.save({"state_dict": {}, "arl_downstream": {"task": "busi"}}, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best.ckpt: already trained on task busi; give its pretraining checkpoint$"):
        encoder_of_checkpoint(tmp_path / "best.ckpt", "teacher")
