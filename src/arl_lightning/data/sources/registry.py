"""The sources by name, imported when they are used: a folder of images needs no SciPy."""

from importlib import import_module
from typing import Any

from arl_lightning.errors import UserError

# Name on the command line and in specs -> module in this package, class.
SOURCES: dict[str, tuple[str, str]] = {
    "folder": ("folder", "Folder"),
    "phantom": ("phantom", "Phantom"),
}


def source_class(name: str) -> type[Any]:
    """Return a source's class.

    Raises:
        UserError: If there is none of this name, or what it needs is not installed.
    """
    if name not in SOURCES:
        raise UserError(f"source '{name}': unknown; choose one of {', '.join(SOURCES)}")
    module, class_name = SOURCES[name]
    try:
        return getattr(import_module(f"{__package__}.{module}"), class_name)
    except ModuleNotFoundError as error:
        raise UserError(f"source '{name}': needs {error.name}; install it with `pip install '.[packing]'`") from error
