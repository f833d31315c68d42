"""The sources by name, imported when they are used: a folder of images needs no SciPy."""

from importlib import import_module
from typing import Any

from arl_lightning.errors import UserError

# Name on the command line and in specs -> module in this package, class.
SOURCES: dict[str, tuple[str, str]] = {
    "folder": ("folder", "Folder"),
    "phantom": ("phantom", "Phantom"),
    "dicom": ("dicom", "Dicom"),
    "bus_bra": ("bus_bra", "BusBra"),
    "bus_uclm": ("bus_uclm", "BusUclm"),
    "busi": ("busi", "Busi"),
    "buv": ("buv", "Buv"),
    "camus": ("camus", "Camus"),
    "ddti": ("ddti", "Ddti"),
    "echonet_dynamic": ("echonet_dynamic", "EchoNetDynamic"),
    "echonet_lvh": ("echonet_lvh", "EchoNetLvh"),
    "fallmud": ("fallmud", "Fallmud"),
    "fatty_liver": ("fatty_liver", "FattyLiver"),
    "gbcu": ("gbcu", "Gbcu"),
    "hc18": ("hc18", "Hc18"),
    "hmc_qu": ("hmc_qu", "HmcQu"),
    "mmotu": ("mmotu", "Mmotu"),
    "pocus": ("pocus", "Pocus"),
    "thyroid_cine": ("thyroid_cine", "ThyroidCine"),
    "udiat": ("udiat", "Udiat"),
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
