"""Tells damage of an object, which costs that object, from a failing machine, which must not cost the archive.

Reasons travel to logs and to files beside the shards. They are put together from fixed words: the text of an exception
may quote a patient's name or a path.
"""

import os
from pathlib import Path

from arl_lightning.data.media import UnreadableError, is_of_machine
from arl_lightning.errors import UserError


def unreadable(error: Exception, what: str) -> Exception:
    """Return what to raise for a library's exception: a reason without its text, or itself if the machine fails."""
    return error if is_of_machine(error) else UnreadableError(f"{what} ({type(error).__name__})")


def reason_of(error: Exception, root: Path) -> str:
    """Return why an object cannot be read.

    Args:
        error: What reading it raised.
        root: The archive.

    Raises:
        UserError: If it is one, or if the machine fails; its line names the archive and no object.
    """
    if isinstance(error, UserError):
        raise error
    if isinstance(error, OSError) and is_of_machine(error):
        raise UserError(
            f"{root}: reading fails ({os.strerror(error.errno or 0)}); mend that and run the same command again,"
            " packing goes on where it stopped"
        ) from None
    return str(error) if isinstance(error, UnreadableError) else f"damaged ({type(error).__name__})"
