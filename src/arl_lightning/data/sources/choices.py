"""Checks an option that picks some of a few names."""

from collections.abc import Sequence

from arl_lightning.errors import UserError


def check_choices(option: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Raise a UserError unless at least one name is chosen and all are known."""
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        problem = f"'{unknown[0]}' is unknown" if unknown else "the list is empty"
        raise UserError(f"{option}: {problem}; choose from {', '.join(known)}")
