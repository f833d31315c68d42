"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake that the user can mend; the command line prints its one line and exits with status 2.

    The message names the file or the key, says what is wrong with it, and how to put it right.

    Args:
        reason: The line.
        advice: A second line, where the way on is longer than the reason.
    """

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__(reason)
        self.advice = advice
