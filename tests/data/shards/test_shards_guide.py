"""What `shards/README.md` says is there: options, specs, fields, files."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from arl_lightning.data.packing.command import pack_sources
from arl_lightning.data.packing.merge import merge
from arl_lightning.data.packing.report import DUPLICATES_FILE, HELD_OUT_FILE, REJECTED_FILE
from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.shards.sample import Record
from arl_lightning.data.shards.show import show
from arl_lightning.data.shards.stats import PICTURE, TABLE, stats
from arl_lightning.data.shards.verify import verify
from arl_lightning.data.sources.registry import source_class
from arl_lightning.data.tuning.bench import bench
from arl_lightning.data.tuning.preflight import preflight

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "shards/README.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Callable[..., object]] = {
    "pack": pack_sources, "verify": verify, "stats": stats, "show": show, "merge": merge,
    "preflight": preflight, "bench": bench,
}  # fmt: skip


def parameters(function: Callable[..., object]) -> set[str]:
    return set(inspect.signature(function).parameters)


def options(text: str) -> list[str]:
    return [name.replace("-", "_") for name in re.findall(r"(?<![\w-])--([a-z][a-z_-]*)(?![\w.-])", text)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_shown_command_exists(name):
    shown = re.findall(rf"arl shards {name} ([^`\n]*)", GUIDE)
    assert shown
    for line in shown:
        source = re.search(r"--source (\w+)", line)
        known = parameters(COMMANDS[name]) | (parameters(source_class(source[1])) if source else set())
        assert set(options(line.partition("#")[0])) - {"help"} <= known


def test_every_option_in_the_text_exists():
    others = re.compile(r"arl pretrain .*|lfs setstripe .*|arl shards pack --source .*")
    known = set().union(*map(parameters, COMMANDS.values())) | {"help"}
    assert set(options(others.sub("", GUIDE))) <= known
    assert set(re.findall(r"--data\.([a-z_]+)", GUIDE)) <= parameters(PretrainingDataModule)


def test_every_spec_has_its_row_and_every_row_its_spec():
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| .* \|$", GUIDE, re.MULTILINE)
    assert set(rows) - set(Record.__annotations__) == {path.stem for path in (ROOT / "shards/specs").glob("*.yaml")}


def test_every_field_of_a_record_has_its_row():
    table = GUIDE.partition("| field |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(
        Record.__annotations__
    )


def test_the_files_that_it_names_are_written_under_these_names():
    for name in (REJECTED_FILE, DUPLICATES_FILE, HELD_OUT_FILE, PICTURE, TABLE):
        assert name in GUIDE


def test_the_recipes_that_it_names_are_there():
    for recipe in re.findall(r"recipes/[\w/]+\.yaml", GUIDE):
        assert (ROOT / recipe).is_file()
