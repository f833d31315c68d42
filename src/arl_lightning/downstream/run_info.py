"""What a trial was, for its `results.json`."""

from collections.abc import Mapping

from arl_lightning.downstream.material import Material
from arl_lightning.downstream.recipe import ProtocolName
from arl_lightning.downstream.trials import Trial
from arl_lightning.evaluation.schema import Checkpoint, RunInfo


def run_info(
    material: Material, trial: Trial, name: ProtocolName, seconds: float, extra: Mapping[str, object]
) -> RunInfo:
    """Return what a trial was, for `results.json`."""
    counts = {part: len(getattr(trial.split, part)) for part in ("train", "val", "test")}
    origin = material.origin
    return RunInfo(
        task=material.recipe.task,
        protocol=name,
        checkpoint=Checkpoint(origin.checkpoint, origin.sha256),
        split_hash=trial.split_hash,
        recipe=material.recipe.plain(),
        n=counts,
        seed=trial.seed,
        fold=trial.fold,
        fraction=trial.fraction,
        seconds=seconds,
        extra={"model": origin.model, "anatomy": material.anatomy, "image_size": material.image_size, **extra},
    )
