import dataclasses
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from arl_lightning.data.anatomy import AnatomyVocabulary
from arl_lightning.data.packing.spec import load_spec, open_spec
from arl_lightning.data.sources.registry import SOURCES, source_class

SPECS = Path(__file__).parents[3] / "shards/specs"
WITHOUT_SPEC = ("folder", "phantom", "dicom")  # they read what the user has, not a released set
RELEASED = [name for name in SOURCES if name not in WITHOUT_SPEC]
KEYS = {"source", "folder", "anatomy", "options", "encoding", "splits", "weight"}
ENCODING_KEYS = {"image_format", "quality", "short_side", "colour"}
SECTIONS = ("Layout", "Citation", "Licence", "Access", "Faults")


def spec(name: str) -> dict[str, Any]:
    return yaml.safe_load((SPECS / f"{name}.yaml").read_text(encoding="utf-8"))


def sections(name: str) -> dict[str, str]:
    """The parts of a class docstring, in their order; a heading stands alone in its line, without indentation."""
    parts = re.split(
        r"^([A-Z][a-z]+):\n", inspect.cleandoc(source_class(name).__doc__ or "") + "\n", flags=re.MULTILINE
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def fields(name: str) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(source_class(name))}


@pytest.mark.parametrize("name", RELEASED)
def test_a_spec_opens_its_source(name, tmp_path):
    job = open_spec(load_spec(SPECS / f"{name}.yaml"), tmp_path, True, AnatomyVocabulary(), name)
    assert isinstance(job.source, source_class(name))
    assert job.source.root == tmp_path
    assert job.source.anatomy == spec(name).get("anatomy")
    for option, value in spec(name)["options"].items():
        given = tuple(value) if isinstance(value, list) else value
        assert getattr(job.source, option) in (given, Path(str(given)))


def test_there_is_a_spec_for_every_released_set_and_one_for_archives():
    assert sorted(path.stem for path in SPECS.glob("*.yaml")) == sorted([*RELEASED, "dicom"])


@pytest.mark.parametrize("name", RELEASED)
def test_a_spec_says_how_to_run_it_and_where_its_figures_are_from(name):
    lines = (SPECS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# arl shards pack shards/specs/{name}.yaml --root DIR --out corpus/{name}"
    header = [line for line in lines if line.startswith("#")]
    assert len(header) > 1
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", RELEASED)
def test_a_spec_has_the_known_keys_alone(name):
    content = spec(name)
    assert set(content) <= KEYS
    assert {"source", "folder", "options", "encoding"} <= set(content)
    assert content["source"] == name
    assert isinstance(content["folder"], str)
    assert content.get("weight", 1.0) > 0


@pytest.mark.parametrize("name", RELEASED)
def test_an_encoding_is_complete_and_in_range(name):
    encoding = spec(name)["encoding"]
    assert set(encoding) == ENCODING_KEYS
    assert encoding["image_format"] in ("jpg", "png")
    assert 1 <= encoding["quality"] <= 100
    assert encoding["short_side"] is None or encoding["short_side"] >= 96
    assert encoding["colour"] in ("grey", "rgb", "auto")


@pytest.mark.parametrize("name", RELEASED)
def test_the_shares_of_the_splits_make_one(name):
    shares = spec(name).get("splits", {"train": 1.0})
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", RELEASED)
def test_options_are_fields_that_differ_from_their_defaults(name):
    known = fields(name)
    for option, value in spec(name)["options"].items():
        assert option in known
        assert option not in ("root", "anatomy")
        given = tuple(value) if isinstance(value, list) else value
        assert given != known[option].default


@pytest.mark.parametrize("name", RELEASED)
def test_the_anatomy_is_canonical_in_spec_and_class(name):
    default = fields(name)["anatomy"].default
    vocabulary = AnatomyVocabulary()
    for anatomy in (default, spec(name).get("anatomy", default)):
        assert anatomy is None or vocabulary.canonical(anatomy) == anatomy
    # One of the two has to say it, unless the reader decides image by image.
    assert "anatomy" in spec(name) or default is None


@pytest.mark.parametrize("name", RELEASED)
def test_the_docstring_has_its_five_parts(name):
    found = sections(name)
    assert [heading for heading in found if heading in SECTIONS] == list(SECTIONS)
    assert all(found[heading].strip() for heading in SECTIONS)
    assert re.search(r"\b(19|20)\d\d\b", found["Citation"])


@pytest.mark.parametrize("name", RELEASED)
def test_a_source_is_a_frozen_value_that_travels_to_a_worker(name, tmp_path):
    source = source_class(name)(tmp_path)
    assert next(iter(fields(name))) == "root"
    assert source.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.root = tmp_path.parent
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 (bytes of our own)
