from pathlib import Path

import pytest

from arl_lightning.data.tasks.registry import TASKS
from arl_lightning.downstream.command import parse
from arl_lightning.downstream.experiment import PROTOCOLS
from arl_lightning.errors import UserError

RECIPES = Path(__file__).parents[2] / "recipes"
SIZES = ("base", "tiny_cpu")


def recipe(protocol, task, size):
    words = [task, "--root", "DIR", "--config", str(RECIPES / "tasks" / f"{task}.yaml")]
    return parse(protocol, [*words, "--config", str(RECIPES / protocol / f"{size}.yaml")])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_parses_with_every_task(protocol, task, size):
    found = recipe(protocol, task, size)
    assert found.encoder.name.startswith("avit_base" if size == "base" else "avit_tiny")


def test_appendix_b_is_in_the_recipes():
    tuning, probing, segmenting = (recipe(name, "busi", "base") for name in ("finetune", "probe", "segment"))
    optimization = tuning.optimization
    assert (optimization.optimizer, optimization.base_lr, optimization.warmup_epochs) == ("adamw", 1e-3, 5)
    assert optimization.betas == (0.9, 0.999)
    assert (probing.optimization.optimizer, probing.optimization.momentum, probing.encoder.pooling) == (
        "sgd",
        0.9,
        "gap",
    )
    assert (probing.loading.image_size, probing.augment.flip, probing.augment.enabled) == (224, 0.5, True)
    assert (segmenting.optimization.base_lr, segmenting.optimization.scale_lr) == (1e-4, False)


def test_busi_is_split_in_the_recipes_sizes_and_without_known_faults():
    found = recipe("finetune", "busi", "base")
    assert (found.split.source, found.split.test, found.split.val, found.split.seed) == ("drawn", 142, 50, 0)
    assert found.options == {"classes": "two", "faults": "drop", "axilla": "keep", "partial": False}


def test_official_splits_are_the_default_of_sets_that_have_them():
    assert recipe("finetune", "gbcu", "base").split.source == "released"
    assert recipe("segment", "echonet", "base").split.source == "released"


@pytest.mark.parametrize("path", [*RECIPES.glob("*/tiny_cpu.yaml"), *RECIPES.glob("*/base.yaml")], ids=str)
def test_headers_say_how_to_run_them(path):
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"make {path.parent.name} TASK=" in header


def test_later_recipes_and_the_command_line_count():
    path = str(RECIPES / "finetune/tiny_cpu.yaml")
    assert parse("finetune", ["busi", "--config", path]).loading.image_size == 112
    for words in (["--config", path, "--loading.image_size", "64"], ["--loading.image_size=64", f"--config={path}"]):
        assert parse("finetune", ["busi", *words]).loading.image_size == 64
    tasks = str(RECIPES / "tasks/busi.yaml")
    assert parse("finetune", ["busi", "--split.seed", "3", "--config", tasks, "--config", path]).split.seed == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "arl finetune: the first word is the task, none is given; choose from busi, gbcu"),
        (["bussi"], "the first word is the task, 'bussi'; choose from"),
        (["busi", "--optimization.epohcs", "3"], "--optimization.epohcs: unknown; did you mean --optimization.epochs"),
        (["busi", "--optimization.epochs", "many"], "--optimization.epochs many: must be a whole number"),
        (["busi", "--options.classes", "four"], "--options.classes four: choose two or three"),
        (["busi", "--seeds", "1", "1"], r"seeds \[1, 1\]: name at least one, each once"),
        (["busi", "--folds", "3", "--fraction", "0.1", "1"], "folds and fraction: give several of one only"),
        (["busi", "--neighbours.k", "0"], "neighbours.k 0: must be at least 1"),
    ],
)
def test_words_that_cannot_be_used_are_named(words, line):
    with pytest.raises(UserError, match=line):
        parse("finetune", words)


def test_lists_and_flags_are_given_as_words():
    found = parse(
        "finetune", ["busi", "--seeds", "0", "1", "--fraction", "0.1", "1", "--augment.crop_scale", "0.2", "1"]
    )
    assert (found.seeds, found.fraction, found.augment.crop_scale) == ((0, 1), (0.1, 1.0), (0.2, 1.0))
    assert parse("finetune", ["busi", "--augment.enabled", "false", "--overwrite"]).augment.enabled is False


def test_no_data_is_answered_with_where_to_get_it_and_how_to_point_at_it():
    from arl_lightning.downstream.experiment import run_recipe

    with pytest.raises(UserError, match="task busi: no data; where to get the set: Cairo University") as refusal:
        run_recipe("finetune", PROTOCOLS["finetune"], parse("finetune", ["busi"]))
    assert refusal.value.advice is not None
    assert "make finetune TASK=busi DATA=DIR" in refusal.value.advice
