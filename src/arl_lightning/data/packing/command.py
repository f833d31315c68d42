"""`arl shards pack`: from specs, or from one source and its options, to a packed corpus."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from arl_lightning.arguments import new_parser, normalised, positional
from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.data.packing.pack import pack
from arl_lightning.data.packing.plan import Options
from arl_lightning.data.packing.spec import Job, Spec, load_spec, open_spec
from arl_lightning.data.sources.registry import source_class
from arl_lightning.data.wording import count
from arl_lightning.errors import UserError

if TYPE_CHECKING:
    from arl_lightning.data.sources.dicom import Dicom

# What of a downstream set must stay out of a corpus: the images that results are reported on. A set without an official
# split is held out whole.
HELD_OUT: dict[str, tuple[str, dict[str, Any]]] = {
    "busi": ("busi", {}),
    "echonet": ("echonet_dynamic", {"splits": ["test"]}),
    "gbcu": ("gbcu", {"split": "test"}),
    "pocus": ("pocus", {}),
}


def shards_pack(arguments: Sequence[str]) -> str:
    """Pack what the command line names and return the report.

    Raises:
        UserError: If an argument is wrong or packing fails.
    """
    made = _named_source(arguments)
    parser = new_parser("arl shards pack", pack_sources)
    parser.add_function_arguments(pack_sources, skip={"options"})
    if made is not None:
        own = set(inspect.signature(pack_sources).parameters)
        clash = sorted(own & set(inspect.signature(made).parameters) - {"root", "anatomy", "seed"})
        told = "".join(f"; its own `{name}` is set in a spec, under `options`" for name in clash)
        parser.add_class_arguments(made, None, skip=own, help=f"options of this source{told}")
        parser.notes |= {name: f"the source's own '{name}' is set in a spec, under `options`" for name in clash}
    functions: list[Callable[..., Any]] = [pack_sources] if made is None else [pack_sources, made]
    given = parser.parse_args(normalised(arguments, functions)).as_dict()
    known = inspect.signature(pack_sources).parameters
    options = {name: given.pop(name) for name in list(given) if name not in known}
    return pack_sources(**given, options=options)


def _named_source(arguments: Sequence[str]) -> type[Any] | None:
    named = []
    for place, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option == "--source":
            named.append(value or (arguments[place + 1] if place + 1 < len(arguments) else ""))
    if len(named) > 1:
        raise UserError(f"--source: {' and '.join(named)}; give one, or specs for several")
    return source_class(named[0]) if named else None


@positional("specs")
def pack_sources(
    out: Path | None = None,
    specs: list[Path] = [],  # noqa: B006 (read only; jsonargparse shows it in --help)
    source: str | None = None,
    root: Path | None = None,
    anatomy: str | None = None,
    splits: dict[str, float] = {},  # noqa: B006
    weights: dict[str, float] = {},  # noqa: B006
    exclude_task: list[str] = [],  # noqa: B006
    drop_duplicates: bool = False,
    duplicate_distance: int = 24,
    image_format: Literal["jpg", "png"] | None = None,
    quality: int | None = None,
    short_side: int | Literal["keep"] | None = None,
    colour: Literal["auto", "grey", "rgb"] | None = None,
    samples_per_shard: int = 2000,
    seed: int = 0,
    processes: int | None = None,
    max_bad_share: float | None = None,
    anatomies: list[str] = list(ANATOMIES),  # noqa: B006
    dry_run: bool = False,
    review: Path | None = None,
    options: dict[str, Any] = {},  # noqa: B006
) -> str:
    """Pack images into checksummed WebDataset shards for pretraining.

    Stopped at any time and called again it goes on where it stopped.

    Args:
        out: Folder for the shards; must hold no other corpus. Needed but for a dry run.
        specs: Files that say what is packed and how, such as those in shards/specs; or give --source.
        source: One source, whose options then follow, e.g. `folder`, `dicom` or `phantom`.
        root: Folder of the data set; with several specs the folder that holds them all.
        anatomy: What all images of --source show, e.g. breast; `other` if it is none of the vocabulary.
        splits: Split -> share of the patients, e.g. `{train: 0.95, val: 0.05}`; for sources whose spec names none.
        weights: Anatomy or source -> how often its images are packed, e.g. `{cardiac: 0.5, thyroid: 2}`; with splits,
            in `train` alone.
        exclude_task: Downstream tasks whose test images stay out, as NAME=DIR: busi, echonet, gbcu, pocus, or any other
            name with a folder of images.
        drop_duplicates: Leave out all but one of images that look alike.
        duplicate_distance: Most bits of 256 in which perceptual hashes of duplicates differ.
        image_format: `jpg`, or `png` to store without loss; jpg by default, or what the specs say.
        quality: JPEG quality, 1 to 100; by default 92, or what the specs say.
        short_side: Larger images are scaled down to this short side in pixels, `keep` keeps every size; by default 384,
            or what the specs say.
        colour: `grey` or `rgb` for all images, `auto` keeps colour where there is some; by default auto, or what the
            specs say.
        samples_per_shard: The most images of one shard.
        seed: Of the shuffle, the splits and the weights, and of the phantom.
        processes: How many work at once, by default one for each core; the shards do not depend on it.
        max_bad_share: Give up if more than this share of the files cannot be read; 0.05 by default, for DICOM archives,
            which hold much that is no ultrasound, 1.
        anatomies: A vocabulary of your own, the same as `--model.anatomies` in pretraining.
        dry_run: Say what would be packed, and how anatomies were told, without packing.
        review: Of a DICOM archive: instead of packing, draw what would be kept of a sample of its pictures onto sheets
            in this folder. They show patients' names.
        options: Those of --source.

    Returns:
        The report, for printing.

    Raises:
        UserError: If an argument is wrong, `out` holds another corpus, or too many files cannot be read.
    """
    if bool(specs) == (source is not None):
        raise UserError("name spec files (arl shards pack shards/specs/NAME.yaml ...) or one --source, not both")
    if specs and anatomy is not None:
        raise UserError("--anatomy: belongs to --source; a spec has its own key 'anatomy'")
    vocabulary = AnatomyVocabulary(anatomies)
    given = {"image_format": image_format, "quality": quality, "short_side": short_side, "colour": colour}
    encoding = {name: value for name, value in given.items() if value is not None}
    if source == "phantom":
        options = {"seed": seed, **options}
    if source is not None:
        named = [("--source", Spec(source, anatomy=anatomy, options=options))]
    else:
        named = [(str(path), load_spec(path)) for path in specs]
    opened = [open_spec(spec, root, len(named) == 1, vocabulary, where) for where, spec in named]
    jobs = [_job(job, encoding, max_bad_share) for job in opened]
    if dry_run:
        return "\n\n".join(survey_of(spec.source, job) for (_, spec), job in zip(named, jobs, strict=True))
    if review is not None:
        return draw_review(jobs, review)
    if out is None:
        raise UserError("--out: missing; name the folder for the shards")
    held_out = [_held_out(task, vocabulary, max_bad_share) for task in exclude_task]
    return str(
        pack(
            jobs, out, held_out, Options(seed, splits, weights, drop_duplicates, duplicate_distance),
            samples_per_shard, processes, vocabulary,
        )
    )  # fmt: skip


def _job(job: Job, encoding: dict[str, Any], max_bad_share: float | None) -> Job:
    """Let the command line's encoding and limit stand in for the spec's."""
    limit = job.max_bad_share if max_bad_share is None else max_bad_share
    return replace(job, encoding=replace(job.encoding, **encoding), max_bad_share=limit)


def _held_out(task: str, vocabulary: AnatomyVocabulary, max_bad_share: float | None) -> Job:
    """Open what must stay out; an image of it that cannot be read would not, so none may be bad by default."""
    name, _, folder = task.partition("=")
    if not folder:
        raise UserError(f"--exclude_task {task}: say where its images lie, e.g. --exclude_task {task}=DIR")
    # A folder of images has no names of its own: under this one they are no sample's of the corpus.
    images = ("folder", {"exclude": ["*_mask*"], "name": f"--exclude_task {name}"})
    source, options = HELD_OUT.get(name, images)
    spec = Spec(source, anatomy="other" if source == "folder" else None, options=options)
    job = open_spec(spec, Path(folder), True, vocabulary, f"--exclude_task {task}")
    return replace(job, max_bad_share=max_bad_share or 0.0)


def survey_of(source: str, job: Job) -> str:
    """Say what would be packed of a source: of a DICOM archive what its headers tell, of others the number of files."""
    if source == "dicom":
        from arl_lightning.data.dicom.survey import survey

        return str(survey(cast("Dicom", job.source)))
    return f"{job.source.name}: {count(sum(1 for _ in job.source.units()), 'file')} would be read"


def draw_review(jobs: Sequence[Job], folder: Path) -> str:
    """Draw review sheets of DICOM archives, each in a folder of its own where there are several.

    Raises:
        UserError: If a source is no DICOM archive, or the folder cannot be used.
    """
    from arl_lightning.data.dicom.review import write_review
    from arl_lightning.data.sources.dicom import Dicom

    said = []
    for job in jobs:
        if not isinstance(job.source, Dicom):
            raise UserError(f"--review: draws DICOM archives, not {job.source.name}; look at packed shards instead")
        said.append(str(write_review(job.source, folder / job.source.name if len(jobs) > 1 else folder)))
    return "\n".join(said)
