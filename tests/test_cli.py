import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from arl_lightning.cli import main
from arl_lightning.data.packing.command import pack_sources

# Small enough for a second: one batch of four 32 px views a step.
TINY = [
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=3",
    "--trainer.log_every_n_steps=1",
    "--model.encoder.name=avit_tiny_patch16_224",
    "--model.encoder.image_size=32",
    "--model.decoder={depth: 1, dim: 16, num_heads: 2}",
    "--model.adversarial={start_share: 0.3, width: 4}",
    "--model.self_distillation={num_prototypes: 16, hidden_dim: 16, bottleneck_dim: 8}",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--data.num_local_views=1",
    "--data.local_size=16",
]


def pack_phantom(folder, num_samples):
    options = {"num_samples": num_samples}
    pack_sources(folder, source="phantom", options=options, samples_per_shard=8, short_side=64, processes=1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "phantom"
    pack_phantom(folder, num_samples=24)
    return folder


def train(folder, shards, *more):
    return main(["pretrain", f"--run.folder={folder}", f"--data.shards={shards}", *TINY, *more])


def error_line(capsys):
    """The one line on stderr that a user's mistake leaves."""
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("arl: error:")]
    assert len(errors) == 1
    return errors[0]


def test_pretraining_leaves_what_it_says_and_resumes(tmp_path, shards, capsys):
    folder = tmp_path / "run"
    assert train(folder, shards, "--ckpt_path=last") == 0
    said = capsys.readouterr().out
    assert "2.34e-06 scaled from 0.00015 at 256" in said
    for made in ("checkpoints/last.ckpt", "pictures/step-0000003.png", "recipe.yaml", "tensorboard"):
        assert (folder / made).exists()
        assert made == "recipe.yaml" or str(folder / made) in said
    picture = cv2.imread(str(folder / "pictures/step-0000003.png"), cv2.IMREAD_GRAYSCALE)
    assert picture.std() > 10
    assert train(folder, shards) == 2
    assert "--ckpt_path last" in error_line(capsys)
    assert train(folder, shards, "--ckpt_path=last") == 0
    assert "all 3 steps are done" in capsys.readouterr().out
    assert train(folder, shards, "--ckpt_path=last", "--trainer.max_steps=5", "--model.decoder.depth=2") == 2
    assert "model.decoder.depth: the checkpoint has 1, this run 2" in error_line(capsys)
    assert train(folder, shards, "--ckpt_path=last", "--trainer.max_steps=5") == 0
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5


def test_validation_reports_the_floor_beside_the_reconstruction(tmp_path, shards):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validate = [
        f"--data.val_shards={shards}",
        "--trainer.val_check_interval=3",
        "--trainer.check_val_every_n_epoch=null",
    ]
    assert train(tmp_path, shards, *validate) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    floor, error = logged["val/loss/neighbour_mean"], logged["val/loss/reconstruction"]
    assert 0 < floor < 1.5 * error < 3 * floor  # three steps learn next to nothing
    assert {"train/images_per_second", "train/data_wait_share", "train/adaptive_weight"} <= logged.keys()


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--model.encoder.nmae=x", "did you mean model.encoder.name?"),
        ("--trainer.max_stpes=3", "did you mean trainer.max_steps?"),
        ("--model.masking.kind=blok", "model.masking.kind"),
        ("--model.masking.ratio=0.999", "model.masking.ratio"),
        ("--model.encoder.name=vit_base_patch16_224", "model.encoder.name"),
        ("--model.encoder.image_size=33", "model.encoder.image_size"),
        ("--data.local_size=17", "data.local_size"),
        ("--data.num_workers=9", "3 shards for 1 ranks x 9 workers"),
        ("--data.batch_size=64", "--data.batch_size"),
        ("--model.adversarial.update_every=0", "update_every"),
        ("--trainer.precision=bf16-true", "trainer.precision"),
        ("--trainer.max_steps=-1", "trainer.max_steps"),
        ("--data.open_shards=0", "data.open_shards"),
        ("--data.batch_size=0", "data.batch_size"),
        ("--data.num_workers=-1", "data.num_workers"),
        ("--run.pictures_every_n_steps=0", "run.pictures_every_n_steps"),
        ("--trainer.gradient_clip_val=1", "gradient_clip_val"),
        ("--ckpt_path=nowhere.ckpt", "nowhere.ckpt"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path, shards, capsys, argument, named):
    assert train(tmp_path / "run", shards, argument) == 2
    assert named in error_line(capsys)
    assert not (tmp_path / "run/checkpoints").exists()


def test_misspelt_key_in_a_recipe_is_named_with_what_was_meant(tmp_path, shards, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model:\n  maskin:\n    ratio: 0.5\n", encoding="utf-8")
    assert train(tmp_path / "run", shards, f"--config={recipe}") == 2
    assert "model.maskin" in error_line(capsys).replace("'model' does not accept option 'maskin", "model.maskin")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_checkpoint_that_cannot_be_read_is_named(tmp_path, shards, capsys, content):
    path = tmp_path / "broken.ckpt"
    path.write_bytes(content)
    assert train(tmp_path / "run", shards, f"--ckpt_path={path}") == 2
    assert "broken.ckpt" in error_line(capsys)


def test_missing_and_empty_folders_are_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in ("missing", "empty"):
        assert train(tmp_path / "run", tmp_path / folder) == 2
        assert str(tmp_path / folder) in error_line(capsys)
        pack_it = ["--source=folder", f"--root={tmp_path / folder}", "--anatomy=lung", f"--out={tmp_path / 'out'}"]
        assert main(["shards", "pack", *pack_it]) == 2
        assert str(tmp_path / folder) in error_line(capsys)


def test_shard_that_lost_its_end_is_named_before_training(tmp_path, capsys):
    pack_phantom(tmp_path / "corpus", num_samples=16)
    shard = tmp_path / "corpus/shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-2048])
    assert train(tmp_path / "run", tmp_path / "corpus") == 2
    assert "shard-000001.tar" in error_line(capsys)


def test_bad_files_are_skipped_counted_and_listed(tmp_path, capsys):
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        cv2.imwrite(str(root / f"good{index}.png"), rng.integers(0, 255, (48, 48), dtype=np.uint8))
    (root / "truncated.png").write_bytes((root / "good0.png").read_bytes()[:300])
    cv2.imwrite(str(root / "small.png"), np.zeros((3, 3), np.uint8))
    command = ["shards", "pack", "--source=folder", f"--root={root}", "--anatomy=breast", f"--out={tmp_path / 'out'}"]
    assert main(command) == 2
    assert "--max_bad_share" in error_line(capsys)
    assert main([*command, "--max_bad_share=0.5"]) == 0
    report = capsys.readouterr().out
    assert "packed 8 images from 10 files" in report
    assert all(name in report for name in ("truncated.png", "small.png"))
    assert json.loads((tmp_path / "out/manifest.json").read_text())["num_samples"] == 8


def test_help_lists_the_commands_and_an_unknown_one_is_refused(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(command in listed for command in ("pretrain", "shards pack", "bench model"))
    assert main(["pretrian"]) == 2
    assert "pretrian" in error_line(capsys)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/method.md", "docs/real_run.md", "docs/dicom.md", "shards/README.md"]
)
def test_links_between_pages_lead_somewhere(page):
    path = Path(__file__).parents[1] / page
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    first, _ = snippet.split("from arl_lightning.pretraining")  # what follows needs a finished run
    names: dict = {}
    exec(first, names)  # noqa: S102 (our own page)
    assert names["tokens"].shape == (2, 197, 768)
