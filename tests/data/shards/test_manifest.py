import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_corpus import make_items, write_corpus

from arl_lightning.cli import main
from arl_lightning.data.shards.inventory import list_shards, split_folders
from arl_lightning.data.shards.manifest import FILE_NAME, Manifest
from arl_lightning.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", make_items(1, 2))


def alter(folder: Path, **changed: Any) -> None:
    """Change the entry of the first shard; a value of None takes a key away."""
    path = folder / FILE_NAME
    content = json.loads(path.read_text())
    entry = {**content["shards"][0], **changed}
    content["shards"][0] = {key: value for key, value in entry.items() if value is not None}
    path.write_text(json.dumps(content))


def test_a_manifest_comes_back_as_it_was_saved(corpus):
    manifest = Manifest.load(corpus)
    manifest.save(corpus)
    assert Manifest.load(corpus) == manifest


WRONG = [
    ({"name": 5}, "name is 5"),
    ({"name": ""}, 'name is ""'),
    ({"name": ".."}, 'name is ".."'),
    ({"name": "../shard.tar"}, 'name is "../shard.tar"'),
    ({"name": "a\nb.tar"}, r'name is "a\nb.tar"'),
    ({"num_samples": "2"}, 'num_samples is "2"'),
    ({"num_samples": -1}, "num_samples is -1"),
    ({"num_samples": True}, "num_samples is true"),
    ({"num_bytes": 1.5}, "num_bytes is 1.5"),
    ({"sha256": "0" * 63}, f'sha256 is "{"0" * 59}'),
    ({"sha256": "G" * 64}, 'sha256 is "GGG'),
    ({"sha256": 0}, "sha256 is 0"),
    ({"anatomies": ["breast"]}, 'anatomies is ["breast"]'),
    ({"anatomies": {"breast": "2"}}, 'anatomies is {"breast": "2"}'),
    ({"sources": {"set": -1}}, 'sources is {"set": -1}'),
    ({"num_bytes": None}, "a shard has no 'num_bytes'"),
    ({"weight": 1}, "a shard has 'weight', which is unknown"),
]


@pytest.mark.parametrize(("changed", "said"), WRONG)
def test_a_value_that_cannot_be_is_named(corpus, changed, said):
    alter(corpus, **changed)
    with pytest.raises(UserError) as caught:
        Manifest.load(corpus)
    assert str(caught.value).startswith(f"{corpus / FILE_NAME}: not a shard manifest (")
    assert said in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "5", "null", "{}", "[" * 100_000, '{"format": "arl-shards/1"}'])
def test_what_is_no_manifest_is_told(corpus, content):
    (corpus / FILE_NAME).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: not a shard manifest"):
        Manifest.load(corpus)


@pytest.mark.parametrize("shards", [5, {"a": 1}, ["a"], [None], [[]]])
def test_a_list_of_shards_that_is_none_is_told(shards):
    with pytest.raises(UserError, match=r"^x: not a shard manifest"):
        Manifest.parse(json.dumps({"format": "arl-shards/1", "shards": shards}), "x")


def test_a_fingerprint_is_text(corpus):
    content = json.loads((corpus / FILE_NAME).read_text())
    with pytest.raises(UserError, match="fingerprint is 5"):
        Manifest.parse(json.dumps({**content, "fingerprint": 5}), "x")


@pytest.mark.parametrize("command", [["verify"], ["stats"], ["show"], ["merge", "--out=merged"]], ids=" ".join)
@pytest.mark.parametrize("changed", [{"name": 5}, {"num_samples": "2"}])
def test_every_command_says_so_in_one_line(corpus, tmp_path, monkeypatch, capsys, command, changed):
    monkeypatch.chdir(tmp_path)
    alter(corpus, **changed)
    assert main(["shards", command[0], str(corpus), *command[1:]]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"arl: error: {corpus / FILE_NAME}: not a shard manifest ({next(iter(changed))} is ")
    assert said.count("\n") == 1


def denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("call", ["is_file", "is_dir", "read_text"])
def test_a_manifest_that_may_not_be_read_is_named(corpus, monkeypatch, call):
    monkeypatch.setattr(Path, call, denied)
    with pytest.raises(UserError, match=r"manifest\.json: cannot be read \(Permission denied\)"):
        Manifest.load(corpus)


@pytest.mark.parametrize("call", ["glob", "is_file"])
def test_a_folder_that_may_not_be_listed_is_named(corpus, monkeypatch, call):
    monkeypatch.setattr(Path, call, denied)
    with pytest.raises(UserError, match=rf"^{corpus}: cannot be read \(Permission denied\)"):
        split_folders(corpus)


def test_a_name_that_no_folder_can_have_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        list_shards(tmp_path / ("x" * 300))
