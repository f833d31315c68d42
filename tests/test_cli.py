import contextlib
import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import types
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from arl_lightning.cli import COMMANDS, Command, main
from arl_lightning.data.packing.command import pack_sources
from arl_lightning.data.sources.registry import SOURCES, source_class
from arl_lightning.downstream.experiment import PROTOCOLS
from arl_lightning.downstream.recipe import Recipe

PACK_OPTIONS = [name for name in inspect.signature(pack_sources).parameters if name != "options"]

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


def test_a_corpus_with_splits_says_that_one_of_them_is_to_be_named(tmp_path, capsys):
    splits = {"train": 0.5, "val": 0.5}
    options = {"num_samples": 40, "size": (64, 64)}
    pack_sources(tmp_path / "corpus", source="phantom", options=options, splits=splits, processes=1)
    assert train(tmp_path / "run", tmp_path / "corpus") == 2
    folder = tmp_path / "corpus"
    assert f"name one of its splits, {folder}/train or {folder}/val" in error_line(capsys)


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


ARL = [sys.executable, "-m", "arl_lightning.cli"]


@pytest.fixture
def stand_in(monkeypatch):
    """Let `arl bench model` run a function without arguments."""

    def install(function, **flags):
        module = types.ModuleType("stand_in")
        module.run = function
        monkeypatch.setitem(sys.modules, "arl_lightning.stand_in", module)
        monkeypatch.setitem(COMMANDS, ("bench", "model"), Command("stand_in", "run", "", **flags))
        return ["bench", "model"]

    return install


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_names_every_parameter(words, capsys):
    with contextlib.suppress(SystemExit):
        assert main([*words, "--help"]) == 0
    said = capsys.readouterr().out
    command = COMMANDS[words]
    function = getattr(import_module(f"arl_lightning.{command.module}"), command.function)
    known = {"pretrain": ["config", "ckpt_path", "data.shards", "run.folder"], "shards_pack": PACK_OPTIONS}
    known |= {name: ["config", *inspect.signature(Recipe).parameters] for name in (*PROTOCOLS, "training_list")}
    if words == ("preflight",):
        known["preflight"] = ["config", "cores", "memory", "images_per_second_per_gpu"]
    known["ranks"] = ["config"]
    names = known.get(command.function, list(inspect.signature(function).parameters))
    assert [name for name in names if not re.search(rf"(--|\[|^  ){name}\b", said, re.IGNORECASE | re.MULTILINE)] == []


@pytest.mark.parametrize("source", SOURCES)
def test_help_with_a_source_names_its_options(source, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["shards", "pack", "--source", source, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    names = [*inspect.signature(source_class(source)).parameters, *PACK_OPTIONS]
    assert [name for name in names if f"--{name} " not in said] == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("shards pack --source folder --colour gray", "--colour gray: choose auto, grey or rgb"),
        ("shards pack --source folder --quality high", "--quality high: must be a whole number"),
        ("shards pack --source folder --exlude-task x", "--exlude-task: unknown; did you mean --exclude-task?"),
        ("shards pack --source folder --short_side big", "--short_side big: must be a whole number or keep"),
        ("shards pack one.yaml --root B --out Co two.yaml", "two.yaml: one word too many"),
        ("shards verify", "--shards: missing"),
        ("bench model --runs many", "--runs many: must be a whole number"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_in_plain_words(typed, said, capsys):
    assert main(typed.split()) == 2
    assert error_line(capsys).startswith(f"arl: error: {said}")


@pytest.mark.parametrize("form", [["--exclude=*_mask*"], ["--exclude", "*_mask*"], ['--exclude=["*_mask*"]']])
def test_a_list_with_one_word_is_taken_in_every_form(form, tmp_path, capsys):
    for name in ("a.png", "a_mask.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 48), np.uint8))
    assert main(["shards", "pack", "--source=folder", f"--root={tmp_path}", "--anatomy=lung", "--dry_run", *form]) == 0
    assert "1 file would be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/a\nb"), "/a b: Permission denied"),
        (OSError(18, "Invalid cross-device link", "/a", None, "/b"), "/a -> /b: Invalid cross-device link"),
        (OSError(5, "Input/output error", 3), "[Errno 5] Input/output error: 3"),
        (OSError("cut short"), "cut short"),
        (TimeoutError(), "TimeoutError"),
        (BrokenPipeError(32, "Broken pipe"), "[Errno 32] Broken pipe"),  # between processes: ours are open
    ],
)
def test_what_the_system_refuses_is_one_line(stand_in, capsys, error, said):
    def fail() -> None:
        raise error

    assert main(stand_in(fail)) == 2
    assert error_line(capsys) == f"arl: error: {said}"


@pytest.mark.parametrize(
    ("resumes", "said"), [(True, "run the same command again, it goes on where it stopped"), (False, "command again")]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_so_in_one_line(stand_in, capsys, number, resumes, said):
    before = signal.getsignal(signal.SIGTERM)
    assert main(stand_in(lambda: signal.raise_signal(number), resumes=resumes)) == 130
    captured = capsys.readouterr()
    assert captured.err.startswith("arl: stopped; ")
    assert captured.err.endswith(f"{said}\n")
    assert captured.err.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_packing_and_merging_go_on_after_a_stop():
    assert {words for words, command in COMMANDS.items() if command.resumes} == {
        ("shards", "pack"),
        ("shards", "merge"),
    }


def test_training_keeps_its_signals(stand_in):
    during = []

    def train() -> None:
        during.append(signal.getsignal(signal.SIGTERM))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main(stand_in(train, trains=True))
    assert during == [signal.getsignal(signal.SIGTERM)]
    assert COMMANDS["pretrain",].trains


PROGRAM = """
import os, signal, sys, time
from arl_lightning import cli
from arl_lightning.distributed import signals
from arl_lightning.errors import UserError
def run(*_):
    {body}
cli.Command.run = run
sys.argv = ["arl", "{word}"]
sys.exit(cli.main())
"""


def as_program(body: str, word: str = "pretrain", rank: int = 0, world_size: int = 1) -> subprocess.CompletedProcess:
    code = PROGRAM.format(body=body, word=word)
    ranks = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "SLURMD_NODENAME": f"node{rank}"}
    started = ["env", "--block-signal=USR1", "--block-signal=TERM", sys.executable, "-c", code]
    return subprocess.run(started, capture_output=True, text=True, env={**os.environ, **ranks}, check=False)


def test_only_pretraining_takes_a_signal_for_a_flag():
    assert [words for words, command in COMMANDS.items() if command.stops] == [("pretrain",)]
    body = "[os.kill(os.getpid(), number) for number in signals.STOPPING]; print(signals.received().name)"
    done = as_program(body)
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n")
    assert as_program("os.kill(os.getpid(), signal.SIGUSR1)", word="knn").returncode == -signal.SIGUSR1


def test_a_run_that_a_signal_ended_says_so_on_the_first_rank():
    body = 'raise signals.Stopped("stopped by SIGUSR1 at step 5", signal.SIGUSR1)'
    first, second = (as_program(body, rank=rank, world_size=2) for rank in range(2))
    assert (first.returncode, first.stderr) == (128 + signal.SIGUSR1, "arl: stopped by SIGUSR1 at step 5\n")
    assert (second.returncode, second.stderr) == (0, "")  # or srun would end the first


def test_an_error_of_one_rank_has_its_number_and_node():
    done = as_program('raise ValueError("bad pixel")', rank=3, world_size=8)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "rank 3 (node3): Traceback (most recent call last):"
    assert lines[-1] == "arl: error: rank 3 (node3): ValueError: bad pixel"
    assert all(line.startswith("rank 3 (node3): ") for line in lines[:-1])


def test_a_mistake_is_told_plainly_by_the_first_rank_and_by_others_that_outlive_it():
    body = 'raise UserError("data.shards: nothing there")'
    first, second = (as_program(body, rank=rank, world_size=2) for rank in range(2))
    assert (first.returncode, first.stderr) == (2, "arl: error: data.shards: nothing there\n")
    assert (second.returncode, second.stderr) == (2, "arl: error: rank 1 (node1): data.shards: nothing there\n")


def test_the_end_of_a_rank_waits_for_nobody():
    worker = "import multiprocessing as m; m.get_context('fork').Process(target=time.sleep, args=(1000,)).start()"
    body = f'{worker}; import atexit; atexit.register(time.sleep, 1000); raise ValueError("bad")'
    assert as_program(body, world_size=2).returncode == 1  # and its output is closed, so its worker is gone too


def test_a_handler_of_somebody_else_and_another_thread_are_let_be(stand_in):
    during = []
    words = stand_in(lambda: during.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=main, args=(words,))
    thread.start()
    thread.join()
    assert during.pop() is signal.SIG_DFL
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(words) == 0
        assert during.pop() is signal.SIG_IGN is signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_name_that_is_no_unicode_can_be_printed(stand_in, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    assert main(stand_in(lambda: "a\udcff.png")) == 0
    assert written.getvalue() == b"a\\udcff.png\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_reader_that_goes_away_is_met_in_silence(closed, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    typed = ["--help"] if closed == "stdout" else ["no", "command"]
    with os.fdopen(writing, "wb") as output:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: output}
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([*ARL, *typed], **streams, env=environment, check=False)
    assert (done.stdout or b"") + (done.stderr or b"") == b""
    assert done.returncode == 128 + signal.SIGPIPE


def test_output_that_cannot_be_written_is_told_once():
    with Path("/dev/full").open("wb") as output:
        done = subprocess.run([*ARL, "--help"], stdout=output, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"arl: error: [Errno 28] No space left on device\n"
    assert done.returncode == 2


def test_closed_output_is_let_be():
    done = subprocess.run(["sh", "-c", f"{shlex.join(ARL)} --version >&-"], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


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
