"""What is packed, and how: the YAML files of `shards/specs/`, one for each data set."""

import inspect
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from arl_lightning.arguments import explained, kinds_of, refuse_null
from arl_lightning.data.anatomy import AnatomyVocabulary
from arl_lightning.data.packing.encoding import Encoding
from arl_lightning.data.packing.plan import check_splits
from arl_lightning.data.sources.registry import source_class
from arl_lightning.data.sources.source import Source
from arl_lightning.errors import UserError

MAX_BAD_SHARE = 0.05
MAPPINGS = ("options", "encoding", "splits")


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


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML's own loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are unique."""
        known = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                raise ValueError(f"line {key.start_mark.line + 1}: '{key.value}' stands there a second time; keep one")
            known.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


def load_spec(path: Path) -> Spec:
    """Read a spec.

    Raises:
        UserError: If the file is missing, cannot be read, is no YAML, or has a key or a value that a spec cannot have.
    """
    content = _read(path)
    if not isinstance(content, dict) or "source" not in content:
        raise UserError(f"{path}: has no key 'source'; name a reader, e.g. `source: folder`")
    _refuse_unknown(content, [each.name for each in fields(Spec)], str(path))
    for key in MAPPINGS:
        if not isinstance(content.get(key, {}), dict):
            raise UserError(f"{path}: {key}: must be a mapping; leave it out, or write it as in shards/specs")
    encoding = content.pop("encoding", {})
    _refuse_unknown(encoding, [each.name for each in fields(Encoding)], f"{path}: encoding")
    values = _values(Spec, content, f"{path}: ", skip={"encoding"})
    made = _values(Encoding, encoding, f"{path}: encoding.")
    try:
        return Spec(**values, encoding=Encoding(**made))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: Path) -> object:
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such spec; those of the project lie in shards/specs")
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a safe one)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date that cannot be
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def _values(made: type[Any], content: Mapping[str, Any], where: str, skip: Set[str] = frozenset()) -> dict[str, Any]:
    """Return the arguments of a class, its defaults for those that are not given.

    Raises:
        UserError: If one is missing or not of its type; `where` stands before its name.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(made, None, skip=set(skip))
    kinds = kinds_of(made)
    try:
        values = parser.parse_object(dict(content)).as_dict()
        refuse_null(values, kinds)
    except (ArgumentError, UserError) as error:
        raise UserError(f"{where}{explained(str(error), kinds)}") from error
    return values


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
    parameters = inspect.signature(made).parameters
    options = dict(spec.options)
    _refuse_unknown(options, [name for name in parameters if name != "root"], f"{where}: options")
    if spec.anatomy is not None:
        if "anatomy" not in parameters:
            raise UserError(f"{where}: anatomy: source '{spec.source}' decides it image by image; leave the key out")
        options["anatomy"] = vocabulary.canonical(spec.anatomy)
    elif "anatomy" in parameters.keys() - options and parameters["anatomy"].default is inspect.Parameter.empty:
        raise UserError(f"{where}: anatomy: missing; source '{spec.source}' has to be told what its images show")
    if spec.source != "phantom":
        options["root"] = str(_root(spec, root, alone, where))
    source = made(**_values(made, options, f"{where}: options."))
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
