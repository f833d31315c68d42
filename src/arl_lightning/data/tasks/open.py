"""Opens a task by name: its released files, its user's table, or phantoms in its layout."""

import inspect
from pathlib import Path
from typing import Any

from arl_lightning.data.tasks.registry import task_class
from arl_lightning.data.tasks.task import Task
from arl_lightning.errors import UserError

PHANTOM = Path("phantom")
PHANTOM_SETS = Path("corpus/tasks")
GIVEN = ("root", "table")  # fields of every task that are no options


def open_task(name: str, root: Path | None, table: Path | None, options: dict[str, Any]) -> Task:
    """Return a task over some files.

    Args:
        name: Of the task.
        root: The set's folder; `phantom` draws a small made-up set in the task's layout, for demos and tests only.
        table: A csv file to read instead of the released layout; its paths are relative to `root`, else to its folder.
        options: The task's own.

    Raises:
        UserError: If there is no such task, or neither a folder nor a table.
    """
    found = task_class(name)
    if root is None and table is None:
        described: Any = found
        raise UserError(
            f"task {name}: no data; where to get the set: {described.where}",
            advice=f"then name its folder: make finetune TASK={name} DATA=DIR, or arl finetune {name} --root DIR"
            " (DATA=phantom draws made-up images)",
        )
    if root == PHANTOM and not root.is_dir():
        from arl_lightning.data.tasks.phantoms import write_phantom_set

        root = write_phantom_set(name, PHANTOM_SETS / name)
        if "partial" in inspect.signature(found).parameters:
            options = {**options, "partial": True}
    if root == Path():  # to a task this stands for none
        root = Path.cwd()
    task: Task = found(root=root or Path(), table=table, **options)  # type: ignore[call-arg]
    return task


def option_names(name: str) -> list[str]:
    """Return the names of a task's own options."""
    return [option for option in inspect.signature(task_class(name)).parameters if option not in GIVEN]
