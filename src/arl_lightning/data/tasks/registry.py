"""The downstream tasks by name, each imported when it is asked for."""

from importlib import import_module

from arl_lightning.data.tasks.task import Task
from arl_lightning.errors import UserError

TASKS: dict[str, tuple[str, str]] = {
    "busi": ("busi", "Busi"),
    "gbcu": ("gbcu", "Gbcu"),
    "pocus": ("pocus", "Pocus"),
    "echonet": ("echonet", "EchoNet"),
    "thyroid": ("thyroid", "Thyroid"),
    "echo_views": ("echo_views", "EchoViews"),
    "custom": ("custom", "Custom"),
}


def task_class(name: str) -> type[Task]:
    """Return the class of a task.

    Raises:
        UserError: If there is no such task.
    """
    if name not in TASKS:
        raise UserError(f"task '{name}': unknown; choose from {', '.join(TASKS)} (custom reads your own table)")
    module, of_task = TASKS[name]
    found: type[Task] = getattr(import_module(f"arl_lightning.data.tasks.{module}"), of_task)
    return found
