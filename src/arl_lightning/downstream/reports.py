"""What a run tells its user before it begins and when it ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from arl_lightning.data.wording import count, one_line
from arl_lightning.downstream.material import Material
from arl_lightning.downstream.recipe import ProtocolName
from arl_lightning.downstream.trials import Trial
from arl_lightning.evaluation.schema import FILE, Estimate, read_results
from arl_lightning.evaluation.wording import interval_text, metric_name

NUM_NOTES = 5


def start_report(material: Material, planned: Sequence[Trial], name: ProtocolName) -> str:
    """Say what is about to be trained, on what."""
    recipe, split, listing = material.recipe, planned[0].split, material.listing
    places = [*split.train, *split.val, *split.test]
    patients = {listing.cases[place].patient for place in places} - {None}
    known = count(len(patients), "patient") if patients else "patients unknown"
    sizes = ", ".join(f"{part} {len(getattr(split, part)):,}" for part in ("train", "val", "test"))
    told = f"told '{material.anatomy}'" if material.conditioned else "not conditioned"
    lines = [
        f"task            {recipe.task}: {', '.join(listing.structures if name == 'segment' else listing.classes)}",
        f"cases           {sizes} ({known}; split {planned[0].split_hash})",
        f"encoder         {material.origin.model} at {material.image_size} px from {recipe.checkpoint}, {told}",
        f"protocol        {name}, {count(len(planned), 'training')}",
    ]
    of_parts = dict.fromkeys(note for trial in planned for note in trial.notes)  # only here they are said
    lines += [f"note            {one_line(each.path)}: {one_line(each.reason)}" for each in of_parts]
    lines += [f"note            {one_line(each.path)}: {one_line(each.reason)}" for each in material.notes[:NUM_NOTES]]
    if len(material.notes) > NUM_NOTES:
        more = len(material.notes) - NUM_NOTES
        lines.append(f"                and {more} more: arl tasks check {recipe.task} lists them")
    return "\n".join(lines)


def end_report(folder: Path, metrics: Sequence[str]) -> str:
    """Say what came out of a single training, and where it lies.

    Args:
        folder: Of the run.
        metrics: Those that the paper reports; all that there are where it reports none of these.
    """
    results = read_results(folder)
    shown = [name for name in metrics if name in results["metrics"]] or list(results["metrics"])
    lines = [f"{metric_name(name):15} {_value(results['metrics'], name)}" for name in shown]
    lines.append(f"{'':15} {dict(results)['grouping']}")
    if clips := dict(results).get("per_video"):
        said = ", ".join(f"{metric_name(name)} {_value(clips['metrics'], name)}" for name in shown)  # type: ignore[index]
        lines.append(f"{'per clip':15} {said} (n = {clips['num_images']})")  # type: ignore[index]
    lines += [f"results         {folder / FILE}", f"figures         {folder / 'figures'}"]
    return "\n".join(lines)


def _value(metrics: Mapping[str, Estimate], name: str) -> str:
    found = metrics[name]
    return interval_text(found["value"], found["low"], found["high"], name)
