"""Commands from typed functions: their signatures are the options, and words are taken as people type them."""

import inspect
import json
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser


def call(function: Callable[..., object], program: str, arguments: Sequence[str]) -> object:
    """Parse a function's signature from the command line and call it.

    Parameters that `positional` marked take the words before the first option.
    """
    parser = new_parser(program, function)
    parser.add_function_arguments(function)
    return function(**parser.parse_args(normalised(arguments, [function])).as_dict())


def new_parser(program: str, function: Callable[..., Any]) -> ArgumentParser:
    """Return a parser whose usage line says what stands before the options."""
    words = "".join(f" [{name.upper()}]" for name in positional_of(function))
    return ArgumentParser(prog=program, usage=f"{program}{words} [--KEY VALUE ...]", exit_on_error=False)


def positional(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function's parameters that words before the first option belong to; a list takes all that are left."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__dict__["positional"] = names
        return function

    return mark


def positional_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return what `positional` marked."""
    return function.__dict__.get("positional", ())


def normalised(arguments: Sequence[str], functions: Sequence[Callable[..., Any]]) -> list[str]:
    """Bring arguments to the one form that jsonargparse reads.

    `--drop-duplicates` becomes `--drop_duplicates=true`, `--exclude a b` becomes `--exclude=["a","b"]`, and words
    before the first option become the values of the positional parameters.

    Args:
        arguments: As typed.
        functions: Their parameters' types tell a flag from an option and a list from a word.
    """
    kinds: dict[str, Any] = {}
    names: tuple[str, ...] = ()
    for function in functions:
        parameters = inspect.signature(function).parameters
        target = function.__init__ if inspect.isclass(function) else function
        kinds |= {name: kind for name, kind in get_type_hints(target).items() if name in parameters}
        names += positional_of(function)
    return list(_rewritten(list(arguments), kinds, names))


def _rewritten(arguments: list[str], kinds: dict[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    words = _words(arguments, 0)
    at = len(words)
    for name in names:
        own, words = (words, []) if _is_list(kinds[name]) else (words[:1], words[1:])
        if own:
            yield f"--{name}={_value(own, kinds[name])}"
    yield from words  # more than the function takes: the parser says so
    while at < len(arguments):
        option, has_value, value = arguments[at].partition("=")
        name = option.removeprefix("--").replace("-", "_") if option.startswith("--") else option
        words = [] if has_value else _words(arguments, at + 1)
        at += 1 + len(words)
        kind = kinds.get(name)
        if has_value:
            yield f"--{name}={value}" if option.startswith("--") else arguments[at - 1]
        elif kind is bool and not words:
            yield f"--{name}=true"
        elif words and name in kinds:
            yield f"--{name}={_value(words, kind)}"
        else:
            yield f"--{name}" if option.startswith("--") else option
            yield from words


def _words(arguments: Sequence[str], start: int) -> list[str]:
    """Return the words up to the next option; a negative number is a word."""
    words = []
    for word in arguments[start:]:
        if word.startswith("--") or (word.startswith("-") and not word[1:2].isdigit() and len(word) > 1):
            break
        words.append(word)
    return words


def _value(words: list[str], kind: Any) -> str:
    if len(words) == 1 and (not _is_list(kind) or words[0].lstrip()[:1] in ("[", "{") or words[0] == "null"):
        return words[0]
    return json.dumps(words) if _is_list(kind) else " ".join(words)


def _is_list(kind: Any) -> bool:
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        return any(_is_list(each) for each in get_args(kind))
    return get_origin(kind) in (list, tuple)
