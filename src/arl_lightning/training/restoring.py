"""How a run goes on: every rank from the checkpoint that the first one sees."""

from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor

from arl_lightning.distributed.collectives import gather_rows
from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.sharded_checkpoint import other_optimizer_told


class Restoring(_CheckpointConnector):
    """Stands in for Lightning's, which lets each rank look where a link leads.

    On another node that may for a while be a former step, or nothing: ranks would train on from different steps.
    """

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Load what the first rank's path leads to; called on all ranks, also where a run begins."""
        path = str(Path(checkpoint_path).resolve()) if checkpoint_path else None
        super().resume_start(gather_rows(path)[0], weights_only)

    def restore_optimizers(self) -> None:
        """Load the optimizers, and keep nothing of the file that is mapped into memory.

        Raises:
            UserError: If the state is another optimizer's.
        """
        with other_optimizer_told(Path(self._ckpt_path or "")):
            super().restore_optimizers()
        if isinstance(self.trainer.strategy, FSDP2Strategy):  # has read into memory of its own
            return
        for optimizer in self.trainer.optimizers:
            for state in optimizer.state.values():
                on_host = {name: each for name, each in state.items() if isinstance(each, Tensor) and each.is_cpu}
                # Another node may remove the file: what it has not read by then would be gone.
                state.update({name: each.clone() for name, each in on_host.items()})
