"""What is packed, and how: the YAML files of `shards/specs/`, one for each data set."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from arl_lightning.data.anatomy import AnatomyVocabulary
from arl_lightning.data.packing.encoding import Encoding
from arl_lightning.data.packing.plan import check_splits
from arl_lightning.data.sources.registry import source_class
from arl_lightning.data.sources.source import Source
from arl_lightning.errors import UserError

MAX_BAD_SHARE = 0.05


@dataclass(frozen=True)
class Spec:
    """How one data set is packed.

    Attributes:
        source: Name of its reader.
        folder: Name of its folder where several data sets lie beside each other.
        anatomy: What its images show; None where the reader decides it image by image, or has a default.
        options: The reader's own options.
        encoding: How its images are stored.
        splits: Split -> share of the patients; empty: none of its own.
        weight: How often its images are packed.
    """

    source: str
    folder: str | None = None
    anatomy: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    encoding: Encoding = field(default_factory=Encoding)
    splits: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_splits(self.splits, "splits")
        if not 0 <= self.weight <= 100:
            raise UserError(f"weight {self.weight}: must be 0 to 100")


@dataclass(frozen=True)
class Job:
    """An opened source and how its samples are packed; travels to worker processes whole.

    Attributes:
        max_bad_share: Give up if more than this share of its files cannot be read.
    """

    source: Source
    encoding: Encoding
    splits: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0
    max_bad_share: float = MAX_BAD_SHARE

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"--max_bad_share {self.max_bad_share}: must be 0 to 1")


def load_spec(path: Path) -> Spec:
    """Read a spec.

    Raises:
        UserError: If the file is missing, is no YAML, or has a key or a value that a spec cannot have.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such spec; those of the project lie in shards/specs")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or "source" not in content:
        raise UserError(f"{path}: has no key 'source'; name a reader, e.g. `source: folder`")
    _refuse_unknown(content, [each.name for each in fields(Spec)], str(path))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Spec, None)
    try:
        return Spec(**parser.instantiate_classes(parser.parse_object(content)).as_dict())
    except (ArgumentError, UserError, TypeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def open_spec(spec: Spec, root: Path | None, alone: bool, vocabulary: AnatomyVocabulary, where: str) -> Job:
    """Create a spec's source.

    Args:
        spec: The spec.
        root: The data set's folder, or one that holds it under `spec.folder`; None for a source without files.
        alone: Whether it is the only one to be packed: its folder may then be the root itself.
        vocabulary: Knows the anatomies.
        where: Names the spec in messages.

    Raises:
        UserError: If an option is not one of the source's, its value is wrong, or the folder is missing.
    """
    made = source_class(spec.source)
    parameters = list(inspect.signature(made).parameters)
    options = dict(spec.options)
    _refuse_unknown(options, [name for name in parameters if name != "root"], f"{where}: options")
    if spec.anatomy is not None:
        if "anatomy" not in parameters:
            raise UserError(f"{where}: anatomy: source '{spec.source}' decides it image by image; leave the key out")
        options["anatomy"] = vocabulary.canonical(spec.anatomy)
    if spec.source != "phantom":
        options["root"] = str(_root(spec, root, alone, where))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(made, None)
    try:
        source = made(**parser.parse_object(options).as_dict())
    except (ArgumentError, TypeError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    # An archive holds much that is no ultrasound, and lists it all the same.
    return Job(source, spec.encoding, spec.splits, spec.weight, 1.0 if spec.source == "dicom" else MAX_BAD_SHARE)


def _root(spec: Spec, root: Path | None, alone: bool, where: str) -> Path:
    if root is None:
        raise UserError(f"--root: missing; it names the folder of the data set that {where} reads")
    below = root / spec.folder if spec.folder else root
    if below.is_dir() or not alone:
        return below
    return root


def _refuse_unknown(given: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(known)}"
            raise UserError(f"{where}: unknown key '{key}'; {hint}")
