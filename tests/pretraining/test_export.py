import json
import os
import stat

import pytest
import torch
from safetensors import safe_open
from tiny_arl import fit, random_batch, tiny_arl

import arl_lightning
from arl_lightning.arguments import call
from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.errors import UserError
from arl_lightning.models.weights import read_encoder
from arl_lightning.pretraining.export import export
from arl_lightning.training.checkpoints import RunCheckpoints


@pytest.fixture
def run(tmp_path):
    """A run's checkpoints and its module at the end."""
    module = tiny_arl()
    saving = RunCheckpoints(tmp_path / "run/checkpoints", 2, 1)
    fit(module, [random_batch()], 2, [saving], enable_checkpointing=True)
    return saving, module


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_an_export_rebuilds_the_network_s_encoder_bit_for_bit(run, tmp_path, network):
    saving, module = run
    out = tmp_path / "made/encoder.safetensors"
    said = call(export, "arl export", [str(saving.last), "--out", str(out), "--network", network])
    assert str(said).startswith(f"{out}: {network}'s encoder avit_tiny_patch8_224 of step 2, 0.")
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = getattr(module, network).encoder.float().eval()
    with torch.no_grad():
        assert torch.equal(
            read_encoder(out)[0].eval().forward_features(images)[0], expected.forward_features(images)[0]
        )


def test_an_export_says_where_it_is_from(run, tmp_path):
    saving, module = run
    export(saving.last, tmp_path / "encoder.safetensors")
    with safe_open(tmp_path / "encoder.safetensors", framework="pt") as file:
        header = file.metadata()
    assert (header["network"], header["step"], header["version"]) == ("teacher", "2", arl_lightning.__version__)
    assert json.loads(header["vocabulary"]) == list(ANATOMIES)
    recipe = json.loads(header["recipe"])
    assert recipe["encoder"]["name"] == "avit_tiny_patch8_224"
    assert recipe["optimization"]["base_lr"] == module.optimization.base_lr


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_an_export_is_readable_to_whom_the_umask_lets(run, tmp_path, umask, mode):
    out = tmp_path / "encoder.safetensors"
    out.with_name(out.name + ".tmp").touch(0o600)  # a killed export's
    former = os.umask(umask)
    try:
        export(run[0].last, out)
    finally:
        os.umask(former)
    assert stat.S_IMODE(out.stat().st_mode) == mode


def test_what_cannot_be_exported_is_named(run, tmp_path):
    saving, _ = run
    with pytest.raises(UserError, match=r"--out \S*encoder.pt: must end with .safetensors"):
        export(saving.last, tmp_path / "encoder.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"--out \S*file/y.safetensors: \S*file cannot be made \(File exists\); choose another folder"
    ):
        export(saving.last, tmp_path / "file/y.safetensors")
    with pytest.raises(UserError, match=r"run: is a folder; give its file \S*run/checkpoints/last.ckpt"):
        export(tmp_path / "run", tmp_path / "encoder.safetensors")
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(UserError, match=r"taken.safetensors: cannot be written"):
        export(saving.last, tmp_path / "taken.safetensors")
    assert not (tmp_path / "taken.safetensors.tmp").exists()
