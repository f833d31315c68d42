"""What `arl pretrain` does with a run folder that is not empty."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_arl import TINY_WORDS
from tiny_shards import write_shards

from arl_lightning.errors import UserError
from arl_lightning.pretraining.checkpoint import describe, load_to_resume, refuse_other_networks
from arl_lightning.pretraining.command import checkpoint_to_resume, pretrain
from arl_lightning.pretraining.run import Run
from arl_lightning.training.run_lock import LOCK


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), [8, 8])


@pytest.fixture
def train(shards, tmp_path):
    """Train into `tmp_path/run`, unless told otherwise."""

    def run(steps: int, *more: str) -> None:
        given = [f"--run.folder={tmp_path / 'run'}", f"--data.shards={shards}", f"--trainer.max_steps={steps}"]
        pretrain([*given, *TINY_WORDS, *more], lambda line: None)

    return run


def refused(train, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        train(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def state(folder: Path) -> dict[str, bytes | None]:
    """Return every file and link of a run, apart from what TensorBoard and pictures add."""
    files = [path for path in sorted(folder.rglob("*")) if not {"tensorboard", "pictures"} & set(path.parts)]
    return {str(path): path.read_bytes() if path.is_file() else None for path in files if path.name != LOCK}


def test_a_run_that_is_refused_leaves_the_run_that_is_there_as_it_is(train, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    train(1)
    shutil.copytree(run, other, symlinks=True)
    before = state(run)
    # Another recipe's networks, another number of optimizer groups, another run's checkpoint, a checkpoint of before.
    assert "model.decoder.dim: the checkpoint has 16, this run 8" in refused(
        train, 2, "--ckpt_path=last", "--model.decoder.dim=8"
    )
    assert state(run) == before
    step = other / "checkpoints/step-0000001.ckpt"
    for outside in (step, other / "checkpoints/last.ckpt"):
        said = refused(train, 2, f"--ckpt_path={outside}")
        assert said == (
            f"{run}/checkpoints/last.ckpt: this folder holds a run; go on with --ckpt_path last, or choose another"
            " --run.folder"
        )
    saved = torch.load(step, weights_only=True)
    saved["optimizer_states"][0]["param_groups"].pop()
    for name in ("last.ckpt", "step-0000001.ckpt"):
        (run / "checkpoints" / name).unlink()
    torch.save(saved, run / "checkpoints/step-0000001.ckpt")
    before = state(run)
    assert refused(train, 2, "--ckpt_path=last", "--run.keep=3").startswith(
        f"{run}/checkpoints/step-0000001.ckpt: holds another optimizer's state (loaded state dict has a different"
    )
    assert state(run) == before


def test_an_accepted_run_leaves_its_recipe_and_goes_on_from_its_own_step_by_name(train, tmp_path):
    train(1)
    train(2, f"--ckpt_path={tmp_path}/run/checkpoints/step-0000001.ckpt", "--run.keep=3")
    assert "max_steps: 2" in (tmp_path / "run/recipe.yaml").read_text()
    assert (tmp_path / "run/checkpoints/last.ckpt").readlink() == Path("step-0000002.ckpt")


def test_a_checkpoint_of_elsewhere_begins_a_run_in_an_empty_folder_only(tmp_path):
    run, elsewhere = Run(str(tmp_path / "run")), str(tmp_path / "other/checkpoints/step-0000001.ckpt")
    assert checkpoint_to_resume(elsewhere, run) == Path(elsewhere)
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "step-0000002.ckpt").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"run/checkpoints/step-0000002.ckpt: this folder holds a run"):
        checkpoint_to_resume(elsewhere, run)
    (tmp_path / "link").symlink_to(run.path)
    inside = str(tmp_path / "link/checkpoints/step-0000001.ckpt")
    assert checkpoint_to_resume(inside, run) == Path(inside)


def test_a_run_in_a_folder_where_another_process_trains_is_refused_before_anything_is_written(train, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, run / LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        assert "another process trains here" in refused(train, 1)
        assert state(run) == {}
        other.stdin.close()
    train(1)
    assert json.loads((run / LOCK).read_text())["pid"] == os.getpid()


def test_a_checkpoint_of_an_older_version_is_named_with_its_version_and_what_it_lacks(train, tmp_path):
    train(1)
    path = tmp_path / "old.ckpt"
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert load_to_resume(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 1
    saved["arl"]["version"] = "0.0.1"
    for recipe_key in (("encoder", "register_tokens"), ("pixels", None), (None, "nonfinite_steps")):
        group, name = recipe_key
        described = json.loads(json.dumps(saved["arl"]))
        if group is None:
            del described[name]
        elif name is None:
            del described["recipe"][group]
        else:
            del described["recipe"][group][name]
        torch.save({**saved, "arl": described}, path)
        key = name if group is None else f"model.{group}.{name or 'mean'}"
        said = refused(train, 2, f"--run.folder={tmp_path / 'new'}", f"--ckpt_path={path}")
        assert said.startswith(f"{path}: written by version 0.0.1, lacks {key}; go on with that version, or")
        if group is not None:
            with pytest.raises(UserError, match=f"{key}: the checkpoint, of another version, lacks it"):
                refuse_other_networks(described["recipe"], describe(saved["arl"]["recipe"])["recipe"])
