"""A failing machine costs no object, and what cannot be read as one costs itself."""

import errno
import os
from pathlib import Path

import pytest
from made_dicom import KEY, fan, jpeg, make, region

from arl_lightning.data.dicom import objects, pixels
from arl_lightning.data.dicom.deidentify import KEY_VARIABLE
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.review import write_review
from arl_lightning.data.dicom.survey import survey
from arl_lightning.data.packing.command import pack_sources
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.dicom import Dicom
from arl_lightning.errors import UserError

REGION = {"SequenceOfUltrasoundRegions": [region(40, 30, 359, 289)]}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def read(root, **options):
    source = Dicom(root, **options)
    return {source.path_of(unit).name: list(source.read(unit)) for unit in source.units()}


# ---------------------------------------------------------------- a machine that fails


@pytest.fixture
def archive(tmp_path):
    for number in range(6):
        make(tmp_path / f"in/Quesnel/{number}", fan(seed=number), **REGION)
    return tmp_path / "in"


def pack(root, out):
    return pack_sources(out, source="dicom", root=root, processes=1)


def failing_open(number, after=3):
    """Return a `Path.open` that fails for objects from the fourth on."""
    original, opened = Path.open, []

    def stand_in(self, *given, **named):
        if self.parent.name == "Quesnel":
            opened.append(self)
            if len(opened) > after:
                raise OSError(number, os.strerror(number), str(self))
        return original(self, *given, **named)

    return stand_in


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE, errno.ENOTCONN, errno.ENOMEM])
def test_a_failing_disk_ends_the_packing_which_goes_on_later(number, archive, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", failing_open(number))
        for attempt in (lambda: pack(archive, tmp_path / "out"), lambda: survey(Dicom(archive))):
            with pytest.raises(UserError, match=f"{archive}: reading fails") as caught:
                attempt()
            assert "Quesnel" not in str(caught.value)
    pack(archive, tmp_path / "out")
    assert Manifest.load(tmp_path / "out").num_samples == 6


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ELOOP])
def test_a_file_that_may_not_be_opened_costs_itself(number, archive, monkeypatch):
    monkeypatch.setattr(Path, "open", failing_open(number))
    found = read(archive)
    assert [isinstance(items[0], Rejected) for items in found.values()] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("stage", ["header", "pixels", "fragments"])
def test_a_disk_that_fails_while_it_is_read_is_no_damage(stage, tmp_path, monkeypatch):
    made = jpeg([fan()]) if stage == "fragments" else {}
    make(tmp_path / "in/Quesnel", fan(), **made, **REGION)

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error", "Quesnel")

    if stage == "header":
        monkeypatch.setattr(objects, "dcmread", fail)
    elif stage == "fragments":
        monkeypatch.setattr(pixels, "read_fragments", fail)
    else:
        monkeypatch.setattr(Frames, "_decode_native", fail)
    for attempt in (
        lambda: read(tmp_path / "in"),
        lambda: survey(Dicom(tmp_path / "in")),
        lambda: write_review(Dicom(tmp_path / "in"), tmp_path / "review"),
    ):
        with pytest.raises(UserError, match="reading fails") as caught:
            attempt()
        assert "Quesnel" not in str(caught.value)


def test_a_disk_that_fails_while_it_is_listed_is_no_short_archive(archive, monkeypatch):
    original = Path.stat

    def stand_in(self, **named):
        if self.name == "4":
            raise OSError(errno.ESTALE, "Stale", str(self))
        return original(self, **named)

    monkeypatch.setattr(Path, "stat", stand_in)
    with pytest.raises(UserError, match="reading fails"):
        list(Dicom(archive).units())


def unlistable(monkeypatch, name, number):
    original = os.scandir

    def stand_in(path):
        if Path(path).name == name:
            raise OSError(number, os.strerror(number), str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", stand_in)


def test_a_folder_that_may_not_be_listed_costs_itself_and_is_not_named(archive, monkeypatch):
    make(archive / "Zola/9", fan(), **REGION)
    unlistable(monkeypatch, "Quesnel", errno.EACCES)
    source = Dicom(archive)
    items = [item for unit in source.units() for item in source.read(unit)]
    assert [type(item) for item in items] == [Rejected, Sample]
    assert items[0].reason == "not a file"
    assert "Quesnel" not in str(items[0].path)


def test_a_folder_on_a_failing_disk_ends_the_listing_without_its_name(archive, monkeypatch):
    unlistable(monkeypatch, "Quesnel", errno.EIO)
    with pytest.raises(UserError, match="cannot be listed") as caught:
        list(Dicom(archive).units())
    assert "Quesnel" not in str(caught.value)


def test_a_pipe_and_a_link_to_a_folder_are_told_and_stop_nothing(archive, tmp_path):
    os.mkfifo(archive / "pipe")
    make(tmp_path / "outside/x", fan(), **REGION)
    (archive / "link").symlink_to(tmp_path / "outside")
    (archive / "loose").symlink_to(tmp_path / "nothing")
    found = read(archive)
    assert [found[name][0].reason for name in ("link", "loose", "pipe")] == ["not a file", "missing", "not a file"]
    assert sum(isinstance(items[0], Sample) for items in found.values()) == 6


def test_an_object_that_has_lost_its_preamble_is_read(tmp_path):
    content = make(tmp_path / "made", fan(), **REGION).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_bytes(content[132:])
    assert isinstance(read(tmp_path / "in")["a"][0], Sample)
