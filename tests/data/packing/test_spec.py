from pathlib import Path

import pytest

from arl_lightning.data.anatomy import AnatomyVocabulary
from arl_lightning.data.packing.encoding import Encoding
from arl_lightning.data.packing.spec import Job, Spec, load_spec, open_spec
from arl_lightning.errors import UserError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def opened(path: Path, root: Path) -> Job:
    return open_spec(load_spec(path), root, True, AnatomyVocabulary(), str(path))


def test_a_spec_is_read_with_the_defaults_of_what_it_leaves_out(tmp_path):
    text = "source: folder\nencoding: {quality: 80}\nsplits: {train: 0.5, val: 0.5}\noptions: {fps: 3}\n"
    encoding = Encoding(quality=80)
    assert load_spec(written(tmp_path, text)) == Spec(
        "folder", options={"fps": 3}, encoding=encoding, splits={"train": 0.5, "val": 0.5}
    )
    assert load_spec(written(tmp_path, "source: folder\nencoding: {}\n")) == Spec("folder")


@pytest.mark.parametrize("word", ["keep", "null"])
def test_every_size_is_kept_on_either_word(tmp_path, word):
    assert load_spec(written(tmp_path, f"source: folder\nencoding: {{short_side: {word}}}")).encoding.short_side is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("options:", "options: must be a mapping"),
        ("encoding:", "encoding: must be a mapping"),
        ("splits: [train, val]", "splits: must be a mapping"),
        ("encoding: {quality: high}", "encoding.quality high: must be a whole number"),
        ("encoding: {quality: null}", "encoding.quality null: must be a whole number"),
        ("encoding: {quality: 0}", "quality 0: must be 1 to 100"),
        ("encoding: {colour: gray}", "encoding.colour gray: choose auto, grey or rgb"),
        ("encoding: {colur: grey}", "encoding: unknown key 'colur'; did you mean 'colour'?"),
        ("encoding: {short_side: big}", "encoding.short_side big: must be a whole number or keep"),
        ("weight: heavy", "weight heavy: must be a number"),
        ("weight: null", "weight null: must be a number"),
        ("weight: 101", "weight 101.0: must be 0 to 100"),
        ("splits: {train: most}", "splits most: must be NAME=VALUE, each VALUE a number"),
        ("folder: 5", "folder 5: must be text"),
        ("wieght: 2", "unknown key 'wieght'; did you mean 'weight'?"),
        ("weight: 2001-99-99", "not valid YAML (month must be in 1..12)"),
        ("weight: {", "not valid YAML ("),
        ("weight: 1\nfolder: x\nweight: 2", "not valid YAML (line 4: 'weight' stands there a second time; keep one)"),
        ("options:\n  fps: 1\n  fps: 2", "not valid YAML (line 4: 'fps' stands there a second time; keep one)"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path, text, said):
    path = written(tmp_path, f"source: folder\n{text}\n")
    with pytest.raises(UserError) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: folder\nanatomy: lung\noptions: {fps: often}", "options.fps often: must be a number"),
        ("source: folder\nanatomy: lung\noptions: {fps: null}", "options.fps null: must be a number"),
        ("source: folder\nanatomy: lung\noptions: {include: '*.png'}", "options.include *.png: must be words"),
        ("source: folder\nanatomy: lung\noptions: {5: x}", "options: unknown key '5'"),
        ("source: folder", "anatomy: missing; source 'folder'"),
        ("source: phantom", "options.num_samples: missing"),
    ],
)
def test_a_wrong_option_of_the_source_is_named(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        opened(path, tmp_path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_an_anatomy_may_stand_among_the_options(tmp_path):
    assert opened(written(tmp_path, "source: folder\noptions: {anatomy: lung}"), tmp_path).source.anatomy == "lung"


def test_the_same_key_in_two_mappings_and_a_merged_one_are_no_mistake(tmp_path):
    text = "source: folder\noptions: &it {name: a}\nsplits: {a: 0.5, b: 0.5}\n"
    assert load_spec(written(tmp_path, text)).options == {"name": "a"}
    merged = "source: folder\noptions:\n  <<: {name: a, fps: 1}\n  name: b\n"
    assert load_spec(written(tmp_path, merged)).options == {"name": "b", "fps": 1}


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_spec_that_cannot_be_read_is_named(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    path = written(tmp_path, "source: folder\n")
    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(UserError, match=rf"spec\.yaml: cannot be read \({error.strerror}\)"):
        load_spec(path)


def test_a_name_that_no_file_can_have_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        load_spec(tmp_path / ("x" * 300 + ".yaml"))
    with pytest.raises(UserError, match="no such spec"):
        load_spec(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="no such spec"):
        load_spec(tmp_path)


@pytest.mark.parametrize("content", [b"source: \xff\n", b"\x00\n", b"[" * 5000])
def test_what_is_no_yaml_is_told(tmp_path, content):
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"spec\.yaml: not valid YAML"):
        load_spec(path)
