"""Keeps notes off the terminal that do not apply here."""

import logging
import warnings


def silence_lightning() -> None:
    """Keep Lightning's notes off the terminal where they do not apply; `start_report` says what does."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "LightningCLI's args parameter",  # our own entry point gives both
        "You defined a `validation_step` but have no `val_dataloader`",  # held-out shards are an option
        "Grad strides do not match bucket view strides",  # of the discriminator's last layer, 256 weights
        "FSDP2-wrapped module .* returned a view tensor",  # nobody changes in place what networks return
        "The `srun` command is available",  # a laptop's worth of processes on a login node is no mistake
        "Using ModelCheckpoint with manual optimization",  # the state after the step is what we want
        "Total length of `list` across ranks is zero",  # likewise
        "Checkpoint directory .* exists and is not empty",  # of a run that goes on
        r"`isinstance\(treespec, LeafSpec\)`",
        r"Found \d+ module\(s\) in eval mode",  # the teacher
        "The 'train_dataloader' does not have many workers",
        "The 'val_dataloader' does not have many workers",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
