"""Commands from typed functions: their signatures are the options, and words are taken as people type them."""

import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from arl_lightning.errors import UserError

MAX_SHOWN = 60  # characters of a refused value

_PAIR = re.compile(r"[^\s{}=]+=")

_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def call(function: Callable[..., object], program: str, arguments: Sequence[str]) -> object:
    """Parse a function's signature from the command line and call it.

    Parameters that `positional` marked take the words before the first option.

    Raises:
        UserError: If an option is unknown or a value is not of its type.
    """
    parser = new_parser(program, function)
    parser.add_function_arguments(function)
    return function(**parser.parse_args(normalised(arguments, [function])).as_dict())


def new_parser(program: str, function: Callable[..., Any]) -> "CommandParser":
    """Return a parser whose usage line says what stands before the options."""
    words = "".join(f" [{name.upper()}]" for name in positional_of(function))
    usage = f"{program}{words} [--KEY VALUE ...]"
    return CommandParser(prog=program, usage=usage, exit_on_error=False, allow_abbrev=False)


def positional(*names: str, anywhere: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function's parameters that words before the first option belong to; a list takes all that are left.

    Args:
        names: The parameters.
        anywhere: Give the last of them, a list, also the words behind an option that takes one.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__dict__["positional"] = names
        function.__dict__["takes_rest"] = anywhere
        return function

    return mark


def positional_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return what `positional` marked."""
    return function.__dict__.get("positional", ())


def kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the parameters of a function, or of a class."""
    parameters = inspect.signature(function).parameters
    target = function.__init__ if inspect.isclass(function) else function
    return {name: kind for name, kind in get_type_hints(target).items() if name in parameters}


class CommandParser(ArgumentParser):
    """Refuses in the user's words what jsonargparse refuses in Python's.

    Attributes:
        kinds: The type of each option, of those added first where two have one name.
        notes: For an option, what else to say where its value is refused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kinds: dict[str, Any] = {}
        self.notes: dict[str, str] = {}

    def add_function_arguments(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Add a function's parameters as options."""
        self._learn(function, kwargs.get("skip") or ())
        return super().add_function_arguments(function, *args, **kwargs)

    def add_class_arguments(self, theclass: type[Any], *args: Any, **kwargs: Any) -> Any:
        """Add the parameters of a class as options."""
        self._learn(theclass, kwargs.get("skip") or ())
        return super().add_class_arguments(theclass, *args, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse words.

        Raises:
            UserError: If an option is unknown or a value is not of its type, in one line that names it.
        """
        try:
            return super().parse_args(*args, **kwargs)
        except ArgumentError as error:
            raise UserError(self._noted(explained(str(error), self.kinds, "--"))) from error

    def _learn(self, function: Callable[..., Any], skip: Iterable[str]) -> None:
        added = {name: kind for name, kind in kinds_of(function).items() if name not in set(skip)}
        self.kinds = added | self.kinds

    def _noted(self, message: str) -> str:
        notes = [note for option, note in self.notes.items() if message.startswith((f"--{option} ", f"--{option}:"))]
        return "; ".join([message, *notes])


def explained(message: str, kinds: Mapping[str, Any], prefix: str = "") -> str:
    """Say in one line what jsonargparse found wrong.

    Args:
        message: Its message.
        kinds: The type of each known key.
        prefix: Stands before keys, `--` on the command line.
    """
    text = " ".join(message.split())
    if refused := re.match(r'Parser key "(\S+)":.*?(?:Got value:|Given value:) ?(.*)', text):
        key, value = refused.groups()
        return f"{prefix}{key} {shown(value)}".rstrip() + f": {wanted(kinds[key])}" if key in kinds else text
    if refused := re.match(r"unrecognized arguments: (\S*)", text):
        return _unknown(refused[1], kinds)
    if refused := re.match(r"argument (--[\w.]+)\S*: expected one argument", text):
        return f"{refused[1]}: needs a value"
    if refused := re.match(r"the following arguments are required: (.*)", text):
        missing = ", ".join(f"{prefix}{key}" for key in refused[1].split(", "))
        return f"{missing}: missing"
    if refused := re.match(r"Group '(\S+)' does not accept option '(\S+)'", text):
        return f"{prefix}{refused[1]}.{refused[2]}: unknown{_meant(f'{refused[1]}.{refused[2]}', kinds, prefix)}"
    return text


def refuse_null(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse None, which jsonargparse takes for every type when it parses an object.

    Raises:
        UserError: If a value is None whose type does not have it.
    """
    for key, value in values.items():
        if value is None and key in kinds and type(None) not in (kinds[key], *get_args(kinds[key])):
            raise UserError(f"{key} null: {wanted(kinds[key])}")


def wanted(kind: Any) -> str:
    """Say what a value of a type has to be."""
    members = [each for each in _members(kind) if each is not type(None)]
    if all(get_origin(each) is Literal for each in members):
        return f"choose {_described(kind)}"
    return f"must be {_described(kind)}"


def shown(value: object) -> str:
    """Return a refused value as one short line."""
    text = " ".join(str(value).split())
    if text == "None":
        return "null"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _described(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    members = [each for each in _members(kind) if each is not type(None)]
    if len(members) > 1 or members[0] is not kind:
        return " or ".join(_described(each) for each in members)
    if origin is Literal:
        words = [str(each) for each in inner]
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if origin in (list, tuple):
        fixed = origin is tuple and Ellipsis not in inner
        said = f"{len(inner)} words" if fixed else "words"
        return said if inner[0] is str else f"{said}, each {_described(inner[0])}"
    if origin is dict:
        return f"NAME=VALUE, each VALUE {_described(inner[1])}"
    return _WANTED.get(kind, getattr(kind, "__name__", str(kind)))


def _unknown(word: str, kinds: Mapping[str, Any]) -> str:
    if not word.startswith("-"):
        return f"{shown(word)}: one word too many; words stand before the options, and one behind each that takes one"
    return f"{word.partition('=')[0]}: unknown{_meant(word, kinds, '--')}"


def _meant(word: str, kinds: Mapping[str, Any], prefix: str) -> str:
    name = word.partition("=")[0].lstrip("-")
    known = name.replace("-", "_")
    close = [key for key in kinds if known and key.startswith(known)] or get_close_matches(known, kinds, n=1)
    if not close:
        return "; --help lists the options" if prefix else f"; choose from {', '.join(kinds)}"
    meant = close[0].replace("_", "-") if "-" in name else close[0]
    return f"; did you mean {prefix}{meant}?"


def normalised(
    arguments: Sequence[str], functions: Sequence[Callable[..., Any]], nested: Mapping[str, Any] | None = None
) -> list[str]:
    """Bring arguments to the one form that jsonargparse reads.

    `--drop-duplicates` becomes `--drop_duplicates=true`, `--exclude a b` becomes `--exclude=["a","b"]`,
    `--weights lung=2` becomes `--weights={"lung": 2}`, `-o` becomes `--out`, and words before the first option become
    the values of the positional parameters. Unknown options stay as they are.

    Args:
        arguments: As typed.
        functions: Their parameters' types tell a flag from an option and a list from a word; the first that has a
            parameter counts.
        nested: Types of keys within groups, such as `group.key`.

    Raises:
        UserError: If a name is given twice in one option.
    """
    kinds: dict[str, Any] = dict(nested or {})
    names: tuple[str, ...] = ()
    for function in functions:
        kinds = kinds_of(function) | kinds
        names += positional_of(function)
    words = ["--out" if word == "-o" and "out" in kinds else word for word in arguments]
    if any(function.__dict__.get("takes_rest", False) for function in functions):
        words = _words_first(words, kinds)
    return list(_rewritten(words, kinds, names))


def _words_first(arguments: list[str], kinds: dict[str, Any]) -> list[str]:
    """Move words behind an option that takes one, or none, to the front."""
    front, options = _words(arguments, 0), []
    at = len(front)
    while at < len(arguments):
        option = arguments[at]
        words = _words(arguments, at + 1)
        kind = kinds.get(option.partition("=")[0].removeprefix("--").replace("-", "_"))
        flag = kind is bool and words[:1] not in (["true"], ["false"])
        own = len(words) if _is(kind, list, tuple, dict) else 0 if "=" in option or flag else 1
        options += [option, *words[:own]]
        front += words[own:]
        at += 1 + len(words)
    return front + options


def _rewritten(arguments: list[str], kinds: dict[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    words = _words(arguments, 0)
    at = len(words)
    for name in names:
        own, words = (words, []) if _is(kinds[name], list, tuple) else (words[:1], words[1:])
        if own:
            yield from _given(name, own, kinds[name])
    yield from words  # more than the function takes: the parser says so
    while at < len(arguments):
        option, has_value, value = arguments[at].partition("=")
        name = option.removeprefix("--").replace("-", "_")
        words = [value] if has_value else _words(arguments, at + 1)
        at += 1 if has_value else 1 + len(words)
        kind = kinds.get(name, list[str] if len(words) > 1 and _is_any(kinds.get(name.partition(".")[0])) else None)
        if not option.startswith("--") or name.partition(".")[0].rstrip("+") not in kinds:
            yield option + has_value + value
            yield from [] if has_value else words
        elif kind is bool and not words:
            yield f"--{name}=true"
        elif words:
            yield from _given(name, words, kind)
        else:
            yield f"--{name}"


def _words(arguments: Sequence[str], start: int) -> list[str]:
    """Return the words up to the next option; a negative number is a word."""
    words = []
    for word in arguments[start:]:
        if word.startswith("--") or (word.startswith("-") and not word[1:2].isdigit() and len(word) > 1):
            break
        words.append(word)
    return words


def _given(name: str, words: list[str], kind: Any) -> Iterator[str]:
    """Yield an option with its value, and then the words that do not belong to it."""
    text = " ".join(words)
    many = _is(kind, list, tuple)
    if many and words != ["null"] and not _is_enclosed(text):
        yield f"--{name}={json.dumps(words)}"
    elif _is(kind, dict) and (pairs := list(takewhile(_PAIR.match, words))):
        yield f"--{name}={json.dumps(_joined(name, pairs))}"
        yield from words[len(pairs) :]
    elif (many or _is(kind, dict)) and text.lstrip()[:1] in ("[", "{"):
        yield f"--{name}={text}"
    else:
        yield f"--{name}={words[0]}"
        yield from words[1:]


def _is_any(kind: Any) -> bool:
    """Return whether a type is a mapping to values of any type."""
    return any(get_origin(each) is dict and get_args(each)[1] is Any for each in _members(kind))


def _is_enclosed(text: str) -> bool:
    text = text.strip()
    return (text[:1], text[-1:]) in (("[", "]"), ("{", "}"))


def _joined(name: str, words: Iterable[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in pairs:
            raise UserError(f"--{name} {key}: given twice")
        pairs[key] = _number(value)
    return pairs


def _number(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types that a union allows, or the type itself."""
    return get_args(kind) if isinstance(kind, types.UnionType) or get_origin(kind) is Union else (kind,)


def _is(kind: Any, *origins: type[Any]) -> bool:
    """Return whether a type, or one of those that it allows, is a list, a tuple or a mapping."""
    return any(get_origin(each) in origins for each in _members(kind))
