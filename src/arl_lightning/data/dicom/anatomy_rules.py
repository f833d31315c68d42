"""Tells an object's anatomy from its exam's metadata by rules that a person can read, count and change."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydicom.dataset import Dataset

from arl_lightning.data.anatomy import AnatomyVocabulary
from arl_lightning.data.dicom.header import CODE_SEQUENCES, DESCRIPTIONS, EXAM, codes, items, texts, uid_name
from arl_lightning.errors import UserError

DEFAULT_RULES = "anatomy_rules.yaml"
ALL_DESCRIPTIONS, ALL_CODES = "descriptions", "codes"
CODED = (*CODE_SEQUENCES, ALL_CODES)
ATTRIBUTES = (*EXAM, ALL_DESCRIPTIONS, ALL_CODES, "SOPClassUID")
RULE_KEYS = ("name", "anatomy", "any", "all")

Exam = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Condition:
    """One attribute and the patterns of which one must match."""

    attribute: str
    patterns: tuple[re.Pattern[str], ...]

    def holds(self, exam: Exam) -> bool:
        """Tell whether a value of the attribute matches."""
        return any(pattern.search(value) for value in exam.get(self.attribute, ()) for pattern in self.patterns)


@dataclass(frozen=True)
class Rule:
    """One of a file's rules: its number from 1, its name, the anatomy it stands for, and what must hold."""

    number: int
    name: str
    anatomy: str
    any_of: tuple[Condition, ...]
    all_of: tuple[Condition, ...]

    def matches(self, exam: Exam) -> bool:
        """Tell whether all of `all` and, if there is any, one of `any` holds."""
        some = not self.any_of or any(condition.holds(exam) for condition in self.any_of)
        return some and all(condition.holds(exam) for condition in self.all_of)


def first_match(rules: Sequence[Rule], exam: Exam) -> Rule | None:
    """Return the first rule that matches, None where none does."""
    return next((rule for rule in rules if rule.matches(exam)), None)


def describe(header: Dataset) -> Exam:
    """Return an exam's attributes, ready for matching: plain words, and codes as `SCHEME:VALUE`."""
    exam = {keyword: tuple(_plain(value) for value in texts(header, keyword)) for keyword in EXAM}
    # The order for an image stands in a sequence of its own, the exam's beside the other attributes.
    requests = list(items(header, "RequestAttributesSequence"))
    exam["RequestedProcedureDescription"] += tuple(
        _plain(value) for request in requests for value in texts(request, "RequestedProcedureDescription")
    )
    meanings: list[str] = []
    for keyword in CODE_SEQUENCES:
        found = [code for part in (header, *requests) for code in codes(part, keyword)]
        exam[keyword] = tuple(f"{scheme}:{value}".casefold() for scheme, value, _ in found)
        meanings += [_plain(meaning) for _, _, meaning in found]
    exam[ALL_CODES] = tuple(code for keyword in CODE_SEQUENCES for code in exam[keyword])
    exam[ALL_DESCRIPTIONS] = (*(value for keyword in DESCRIPTIONS for value in exam[keyword]), *meanings)
    uids = texts(header, "SOPClassUID")
    exam["SOPClassUID"] = tuple(_plain(name) for uid in uids for name in (uid, uid_name(uid)))
    return exam


def load_rules(path: Path | None = None) -> tuple[Rule, ...]:
    """Read the rules of a file, or the shipped ones.

    Raises:
        UserError: If the file is missing or not a list of rules; it names the rule and the mistake.
    """
    return _parse(read_rules(path), str(path or DEFAULT_RULES))


def read_rules(path: Path | None = None) -> str:
    """Return the text of a rule file, or of the shipped one.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return (path or files(__package__) / DEFAULT_RULES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason}); `rules` names a YAML file of anatomy rules") from error


@lru_cache(maxsize=4)
def _parse(content: str, place: str) -> tuple[Rule, ...]:
    try:
        parsed = yaml.safe_load(content)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise UserError(f"{place}: line {line} is not YAML; see the shipped {DEFAULT_RULES} for the form") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("rules"), list) or not parsed["rules"]:
        raise UserError(f"{place}: has no list `rules`; see the shipped {DEFAULT_RULES} for the form")
    unknown = [key for key in parsed if key not in ("rules", "words")]
    if unknown:
        raise UserError(f"{place}: key '{unknown[0]}' is unknown; a rule file has `rules`, and `words` to refer to")
    return tuple(_parse_rule(rule, number, place) for number, rule in enumerate(parsed["rules"], start=1))


def _parse_rule(rule: Any, number: int, place: str) -> Rule:
    where = f"{place}: rule {number}"
    if not isinstance(rule, dict) or "anatomy" not in rule or not (rule.get("any") or rule.get("all")):
        raise UserError(f"{where}: needs `anatomy` and one of `any` and `all` (attribute: [patterns])")
    unknown = [str(key) for key in rule if key not in RULE_KEYS]
    if unknown:
        raise UserError(f"{where}: key '{unknown[0]}' is unknown; {_hint(unknown[0], RULE_KEYS)}")
    try:
        anatomy = AnatomyVocabulary().canonical(str(rule["anatomy"]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    any_of, all_of = (tuple(_conditions(rule.get(key) or {}, where)) for key in ("any", "all"))
    return Rule(number, str(rule.get("name", anatomy)), anatomy, any_of, all_of)


def _conditions(given: Any, where: str) -> Iterator[Condition]:
    if not isinstance(given, dict):
        raise UserError(f"{where}: `any` and `all` hold `attribute: [patterns]`, not {type(given).__name__}")
    for attribute, patterns in given.items():
        if attribute not in ATTRIBUTES:
            raise UserError(f"{where}: attribute '{attribute}' is unknown; {_hint(str(attribute), ATTRIBUTES)}")
        listed = patterns if isinstance(patterns, list) else [patterns]
        if not listed or not all(isinstance(pattern, str | int) and str(pattern).strip() for pattern in listed):
            raise UserError(f"{where}: {attribute} needs a list of patterns, such as [liver, 'hepat*']")
        compiled = [_code_pattern(str(p)) if attribute in CODED else _word_pattern(str(p), where) for p in listed]
        yield Condition(attribute, tuple(compiled))


def _hint(given: str, known: Sequence[str]) -> str:
    close = get_close_matches(given, known, n=1)
    return f"did you mean '{close[0]}'?" if close else "choose one of " + ", ".join(known)


def _word_pattern(pattern: str, where: str) -> re.Pattern[str]:
    """Match whole words, `*` being the rest of one: `echo*` matches echocardiogram, `liver` does not match delivery."""
    words = [_plain(part) for part in pattern.split("*")]
    if not any(words):
        raise UserError(f"{where}: pattern '{pattern}' holds no letter or digit; write words, `*` being part of one")
    inner = r"\w*".join(re.escape(word) for word in words)
    return re.compile(rf"(?<!\w){inner}(?!\w)")


def _code_pattern(pattern: str) -> re.Pattern[str]:
    """Match `SCHEME:VALUE`, or a value of any scheme."""
    exact = re.escape(pattern.strip().casefold())
    return re.compile(rf"^{exact}$" if ":" in pattern else rf"^[^:]*:{exact}$")


def _plain(text: str) -> str:
    """Return lower case words without accents, one blank between two."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[\W_]+", " ", letters).split())
