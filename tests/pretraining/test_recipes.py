import re
from pathlib import Path

import pytest
import torch

from arl_lightning.pretraining.recipe import build_cli
from arl_lightning.pretraining.schedules import scaled_learning_rate

RECIPES = sorted((Path(__file__).parents[2] / "recipes/pretrain").glob("*.yaml"))
RANKS = {"avit_base_8gpu": 8, "avit_base_64gpu": 64, "avit_huge_64gpu": 64}
# Any machine can build what a recipe describes; the hardware that it asks for may be elsewhere.
HERE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]


@pytest.fixture(autouse=True)
def _tiny_encoder():
    """Networks of the recipes' own sizes, not the small ones of the other tests."""
    return


def built(recipe: Path, tmp_path: Path):
    return build_cli(["--config", str(recipe), f"--run.folder={tmp_path}", *HERE])


def test_all_recipes_are_there():
    assert [path.stem for path in RECIPES] == [
        "avit_base_1gpu",
        "avit_base_64gpu",
        "avit_base_8gpu",
        "avit_huge_64gpu",
        "avit_tiny_cpu",
        "smoke",
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_its_networks_build_on_the_meta_device(recipe, tmp_path):
    cli = built(recipe, tmp_path)
    with torch.device("meta"):
        cli.model.configure_model()
    assert all(parameter.is_meta for parameter in cli.model.parameters())
    size = cli.model.encoder_options.image_size
    assert cli.datamodule.transform.multi_crop.global_size == size
    assert cli.datamodule.transform.multi_crop.local_size % cli.model.patch_size == 0
    if "base" in recipe.stem:
        assert 94e6 <= sum(parameter.numel() for parameter in cli.model.student.encoder.parameters()) <= 95.5e6


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_header_states_the_scaled_learning_rate(recipe, tmp_path):
    model = built(recipe, tmp_path).model
    images = model.batch_size * RANKS.get(recipe.stem, 1) * model.optimization.accumulate_batches
    stated = re.search(r"^# Rate +([\d.e+-]+)", recipe.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None
    assert float(stated[1]) == pytest.approx(scaled_learning_rate(model.optimization.base_lr, images), rel=2e-3)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_header_is_runnable(recipe):
    header = "".join(line for line in recipe.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    assert f"recipes/pretrain/{recipe.name}" in header
    assert all(word in header for word in ("Hardware", "Time"))
    assert not re.search(r"[A-Z]+(TIME|RESULT)\b", header), "a blank to fill in"
