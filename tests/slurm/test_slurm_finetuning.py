"""Fine-tuning as an array, and the table that a dependent job makes of it."""

import pytest
from slurm_jobs import ROOT, call

from arl_lightning.data.tasks.open import PHANTOM_SETS
from arl_lightning.data.tasks.phantoms import write_phantom_set

TASKS, SEEDS = ("busi", "gbcu"), ("0", "3")
QUICK = ("--optimization.epochs", "1", "--optimization.warmup_epochs", "0", "--loading.image_size", "32")


@pytest.fixture(scope="module", autouse=True)
def phantoms():
    """Drawn before the array's tasks would all draw them at once."""
    for task in TASKS:
        write_phantom_set(task, ROOT / PHANTOM_SETS / task)


def test_an_array_over_tasks_and_seeds_is_gathered_in_one_table(submit, shared):
    out = shared / "finetuned"
    environment = {"TASKS": " ".join(TASKS), "SEEDS": " ".join(SEEDS), "TASK_DATA": "phantom", "SIZE": "tiny_cpu"}
    array = submit("finetune.sh", "--array=0-3", words=QUICK, OUT=str(out), **environment)
    follower = submit.follower_of(array, "report")
    assert [task.wait() for task in submit.tasks(array)] == ["COMPLETED"] * 4
    assert follower.wait() == "COMPLETED"
    found = {path.parent.relative_to(out).as_posix() for path in out.rglob("results.json")}
    assert {name.split("/seed_")[0] for name in found} == set(TASKS)
    assert len(found) == 4
    table = (out / "report.md").read_text()
    assert "4 trainings in 2 rows" in table
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    assert {row[1].strip() for row in rows[2:]} >= set(TASKS)


def test_an_array_refuses_a_task_without_its_data(submit, shared):
    environment = {"TASKS": "busi", "SEEDS": "0", "TASK_DATA": str(shared / "nowhere"), "SIZE": "tiny_cpu"}
    array = submit("finetune.sh", by_itself=True, OUT=str(shared / "refused_tasks"), **environment)
    submit.follower_of(array, "report")
    (task,) = submit.tasks(array)
    assert task.wait() == "FAILED"
    assert f"{shared / 'nowhere/busi'}" in task.text
    assert "refused before anything was started" in task.text.splitlines()[-1]
    assert call("squeue", "--noheader", "--steps", "--jobs", array.number) == ""
