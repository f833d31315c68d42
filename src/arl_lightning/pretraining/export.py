"""`arl export`: the encoder of a pretraining checkpoint as safetensors that stand alone."""

import json
from pathlib import Path

from arl_lightning.arguments import positional
from arl_lightning.errors import UserError
from arl_lightning.models.weights import Network, encoder_of_checkpoint, write_encoder
from arl_lightning.pretraining.checkpoint import load

SUFFIX = ".safetensors"


@positional("checkpoint")
def export(checkpoint: Path, out: Path, network: Network = "teacher") -> str:
    """Write an encoder with all that rebuilds it: `arl finetune --checkpoint` and `read_encoder` take the file.

    Args:
        checkpoint: Of `arl pretrain`: a file, or a folder that sharded ranks wrote, such as RUN/checkpoints/last.ckpt.
        out: A .safetensors file; one that is there is replaced.
        network: Whose encoder.

    Raises:
        UserError: If the checkpoint cannot be read, or the file not written.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"--out {out}: must end with {SUFFIX}")
    _make_folder(out)
    encoder, spec = encoder_of_checkpoint(checkpoint, network)
    described = load(checkpoint, weights=None)
    notes = {
        "network": network,
        "step": str(described["global_step"]),
        "version": described["arl"]["version"],
        "vocabulary": json.dumps(described["arl"]["recipe"]["anatomies"]),
        "recipe": json.dumps(described["arl"]["recipe"]),
    }
    write_encoder(out, encoder, spec, notes)
    return f"{out}: {network}'s encoder {spec.name} of step {notes['step']}, {out.stat().st_size / 1e6:.1f} MB"


def _make_folder(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: {out.parent} cannot be made ({error.strerror}); choose another folder"
        ) from error
