"""Where a run leaves what it makes: the recipe's `run` group."""

from dataclasses import dataclass
from pathlib import Path

from arl_lightning.errors import UserError

LAST = "last"


@dataclass(frozen=True)
class Run:
    """Where a run leaves what it makes, and how often.

    Args:
        folder: Holds checkpoints/, tensorboard/, pictures/ and recipe.yaml.
        checkpoint_every_n_steps: Steps between two checkpoints; checkpoints/last.ckpt leads to the newest.
        keep: Newest checkpoints that are kept, 0 for all; `--keep N` is short for it.
        pictures_every_n_steps: Steps between two pictures of reconstructions.
        watch_every_n_steps: Steps between two looks for collapse, and for shards and images that cannot be used.
    """

    folder: str = "runs/pretrain"
    checkpoint_every_n_steps: int = 1000
    keep: int = 1
    pictures_every_n_steps: int = 500
    watch_every_n_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("checkpoint_every_n_steps", "pictures_every_n_steps", "watch_every_n_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name}: {getattr(self, name)} must be at least 1")
        if self.keep < 0:
            raise UserError(f"run.keep: {self.keep} must be at least 1, or 0 to keep all")

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / f"{LAST}.ckpt"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.path / "pictures"
