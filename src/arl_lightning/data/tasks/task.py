"""What every downstream task offers."""

from pathlib import Path
from typing import Protocol

from arl_lightning.data.tasks.case import Listing


class Task(Protocol):
    """Reads one task's set in its released layout, or from its user's table.

    A task is a frozen dataclass: `root`, `table` and its typed options are its fields. Its docstring gives the layout,
    the labels, the split, the citation, the licence, where to ask for the set, and its known faults.
    """

    @property
    def root(self) -> Path:
        """The set's folder; paths in a table are relative to it."""
        ...

    @property
    def table(self) -> Path | None:
        """A csv file, `image,label[,patient][,split][,mask]`, that is read instead of the released layout."""
        ...

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def anatomy(self) -> str:
        """Anatomy of the images, which conditions A-ViT."""
        ...

    @property
    def where(self) -> str:
        """Where the set is asked for, in a few words."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that the paper reports for it, first to last."""
        ...

    def listing(self) -> Listing:
        """List the cases, without decoding pixels.

        Raises:
            UserError: If the root is not this set, or a table cannot be read at all.
        """
        ...
