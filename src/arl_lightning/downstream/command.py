"""`arl finetune`, `probe`, `knn` and `segment`: from the command line and recipes to a recipe, and to its run."""

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Any

from jsonargparse import ActionConfigFile, Namespace

from arl_lightning.arguments import CommandParser, kinds_of, normalised
from arl_lightning.data.tasks.augment import PROBE
from arl_lightning.data.tasks.open import GIVEN
from arl_lightning.data.tasks.registry import TASKS, task_class
from arl_lightning.downstream.experiment import PROTOCOLS, run_recipe
from arl_lightning.downstream.recipe import ProtocolName, Recipe
from arl_lightning.errors import UserError

OPTIONS = "options"

# Appendix B: what differs from the keys' own defaults, which are fine-tuning's.
PROTOCOL_DEFAULTS: dict[ProtocolName, dict[str, Any]] = {
    "finetune": {},
    "probe": {
        "optimization.optimizer": "sgd",
        "optimization.epochs": 100,
        "optimization.base_lr": 0.1,
        "optimization.weight_decay": 0.0,
        "optimization.warmup_epochs": 0.0,
        "encoder.drop_path": 0.0,
        "augment.crop_scale": PROBE.crop_scale,
    },
    "knn": {"encoder.drop_path": 0.0},
    "segment": {
        "optimization.base_lr": 1e-4,
        "optimization.scale_lr": False,
        "optimization.layer_decay": 1.0,
    },
}


def finetune(arguments: Sequence[str]) -> None:
    """Fine-tune an encoder on a task."""
    _run("finetune", arguments)


def probe(arguments: Sequence[str]) -> None:
    """Train a linear classifier on frozen features."""
    _run("probe", arguments)


def knn(arguments: Sequence[str]) -> None:
    """Classify by the nearest frozen features."""
    _run("knn", arguments)


def segment(arguments: Sequence[str]) -> None:
    """Fine-tune an encoder with UPerNet on a task's masks."""
    _run("segment", arguments)


def _run(protocol: ProtocolName, arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    run_recipe(protocol, PROTOCOLS[protocol], parse(protocol, arguments), say)


def parse(protocol: ProtocolName, arguments: Sequence[str]) -> Recipe:
    """Read a recipe from YAML files and the command line, later ones first.

    The first word is the task: its own options are `--options.NAME`.

    Raises:
        UserError: If a key is unknown or a value is not of its type.
    """
    parser = new_parser(protocol, _task_named(protocol, arguments))
    given = parser.parse_args(normalised(_recipes_first(_with_task_option(arguments)), [Recipe], parser.kinds))
    fields: dict[str, Any] = {}
    for name, kind in kinds_of(Recipe).items():
        value = given.get(name)
        value = value.as_dict() if isinstance(value, Namespace) else value
        fields[name] = kind(**value) if isinstance(kind, type) and is_dataclass(kind) else value
    fields[OPTIONS] = fields[OPTIONS] or {}
    return Recipe(**fields)


def new_parser(protocol: ProtocolName, task: str) -> CommandParser:
    """Return the parser of a protocol and a task."""
    parser = CommandParser(
        prog=f"arl {protocol}",
        usage=f"arl {protocol} TASK --root DIR [--config RECIPE.yaml] [--KEY VALUE ...]",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="A recipe; of several the later ones count.")
    parser.add_class_arguments(Recipe, None, skip={OPTIONS})
    parser.add_class_arguments(task_class(task), OPTIONS, skip=set(GIVEN))
    groups: dict[str, Any] = {name: kind for name, kind in kinds_of(Recipe).items() if is_dataclass(kind)}
    for group, kind in {**groups, OPTIONS: task_class(task)}.items():
        parser.kinds |= {f"{group}.{name}": inner for name, inner in kinds_of(kind).items()}
    parser.set_defaults(PROTOCOL_DEFAULTS[protocol])
    return parser


def _task_named(protocol: ProtocolName, arguments: Sequence[str]) -> str:
    words = list(arguments)
    if words and words[0] in TASKS:
        return words[0]
    for place, word in enumerate(words):
        if word.startswith("--task="):
            return word.removeprefix("--task=")
        if word == "--task" and words[place + 1 :]:
            return words[place + 1]
    if words and words[0] in ("-h", "--help"):
        return "custom"
    named = f"'{words[0]}'" if words and not words[0].startswith("-") else "none is given"
    raise UserError(f"arl {protocol}: the first word is the task, {named}; choose from {', '.join(TASKS)}")


def _with_task_option(arguments: Sequence[str]) -> list[str]:
    words = list(arguments)
    return [f"--task={words[0]}", *words[1:]] if words and not words[0].startswith("-") else words


def _recipes_first(words: list[str]) -> list[str]:
    """Move `--config FILE` to the front: what is typed counts more than what a recipe says, wherever it stands."""
    recipes: list[str] = []
    others: list[str] = []
    at = 0
    while at < len(words):
        own = 2 if words[at] == "--config" else 1
        (recipes if words[at].partition("=")[0] == "--config" else others).extend(words[at : at + own])
        at += own
    return recipes + others
