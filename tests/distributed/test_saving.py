from pathlib import Path

import pytest
import torch

from arl_lightning.distributed.saving import give_names_back, reason_of, replace


def make(path: Path, kind: str) -> None:
    """Make a file, a folder with a file, or a link to one."""
    if kind == "folder":
        path.mkdir()
        (path / "part").write_text(path.name)
    elif kind == "file":
        path.write_text(path.name)
    elif kind == "link":
        make(path.with_name(f"target of {path.name}"), "folder")
        path.symlink_to(f"target of {path.name}")


@pytest.mark.parametrize("former", ["nothing", "file", "folder", "link"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_anything_takes_the_place_of_anything(tmp_path, kind, former):
    make(tmp_path / "new", kind)
    make(tmp_path / "place", former)
    if (kind, former) == ("folder", "link"):  # a checkpoint never has the link's name
        pytest.skip("does not happen")
    replace(tmp_path / "new", tmp_path / "place")
    place = tmp_path / "place"
    assert place.is_symlink() == (kind == "link")
    assert (place / "part" if kind != "file" else place).read_text().endswith("new")
    targets = {f"target of {name}" for name in ("new", "place") if (tmp_path / f"target of {name}").exists()}
    assert {path.name for path in tmp_path.iterdir()} == {"place", *targets}


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_at_any_renaming_leaves_one_folder_or_the_other_under_its_name(tmp_path, killed_at_renaming, renamed):
    make(tmp_path / "step.ckpt", "folder")
    make(tmp_path / "step.ckpt.tmp", "folder")
    with killed_at_renaming(renamed) as killed:
        replace(tmp_path / "step.ckpt.tmp", tmp_path / "step.ckpt")
    assert len(killed) == (renamed < 2)
    give_names_back(tmp_path)
    assert (tmp_path / "step.ckpt/part").read_text() == ("step.ckpt.tmp" if renamed == 2 else "step.ckpt")
    assert not (tmp_path / "step.ckpt.former.tmp").exists()


def test_a_former_folder_does_not_take_the_place_of_the_next(tmp_path):
    make(tmp_path / "step.ckpt", "folder")
    make(tmp_path / "step.ckpt.former.tmp", "folder")
    (tmp_path / "last.ckpt").symlink_to("gone")
    make(tmp_path / "last.ckpt.former.tmp", "folder")
    give_names_back(tmp_path)
    assert (tmp_path / "step.ckpt/part").read_text() == "step.ckpt"
    assert (tmp_path / "last.ckpt").is_symlink()


def test_the_system_s_word_is_found_behind_torch_s():
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises((RuntimeError, OSError)) as failed:
        torch.save([torch.zeros(100_000)] * 3, file)
    assert reason_of(failed.value) == "No space left on device"
    assert reason_of(ValueError("two\nlines")) == "ValueError: two lines"
