import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_arl import fit, random_batch, tiny_arl

import arl_lightning
from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.errors import UserError
from arl_lightning.pretraining import options
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.checkpoint import describe, load


@pytest.fixture
def path(tmp_path):
    saver = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2)
    fit(tiny_arl(), [random_batch()], 2, [saver])
    return tmp_path / "last.ckpt"


def test_a_checkpoint_holds_plain_values(path):
    checkpoint = torch.load(path, weights_only=True)
    description = checkpoint["arl"]
    assert description["version"] == arl_lightning.__version__
    assert description["recipe"]["anatomies"] == list(ANATOMIES)
    assert description["recipe"]["encoder"]["name"] == "avit_tiny_patch8_224"
    assert description["recipe"]["batch_size"] == 4
    assert checkpoint["global_step"] == 2


def test_the_module_is_rebuilt_with_its_options_and_weights(path):
    saved, module = torch.load(path, weights_only=True), ARL.from_checkpoint(path)
    assert describe(module.recipe)["recipe"] == saved["arl"]["recipe"]
    assert isinstance(module.adversarial, options.Adversarial)
    weights = module.state_dict()
    assert weights.keys() == saved["state_dict"].keys()
    assert all(torch.equal(weights[name], value.float()) for name, value in saved["state_dict"].items())


def test_every_argument_is_in_the_recipe():
    module = tiny_arl()
    recipe = describe(module.recipe)["recipe"]
    assert recipe.keys() == {
        *("encoder", "decoder", "pixels", "augmentation", "masking", "reconstruction", "adversarial"),
        *("self_distillation", "optimization", "anatomies", "anatomy_dropout", "batch_size", "compile"),
    }
    assert all(isinstance(value, dict | list | int | float) for value in recipe.values())


def test_a_file_that_is_no_checkpoint_of_ours_is_refused(path, tmp_path):
    with pytest.raises(UserError, match=r"missing\.ckpt: no such checkpoint"):
        load(tmp_path / "missing.ckpt")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.ckpt: not a readable checkpoint"):
        load(cut)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(UserError, match=r"foreign\.ckpt: not a checkpoint of `arl pretrain`"):
        load(foreign)
