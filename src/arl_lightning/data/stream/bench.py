"""Measures how fast shards become batches here: the function behind `arl shards bench`."""

import csv
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from arl_lightning.arguments import positional
from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.shards.inventory import count_processes
from arl_lightning.data.stream.stages import STAGES, StageTimes, measure_stages, one_thread
from arl_lightning.errors import UserError

TABLE = "bench.csv"
PICTURE = "bench.png"

# Settings this near to the fastest are as fast: the best of them has the fewest workers and batches ahead.
AS_FAST = 0.97

WHAT = {
    "read": "shards to encoded images",
    "decode": "to pixels",
    "crop": "to views",
    "collate": "to batches",
    "whole": "shards to batches",
    "raw": "OpenCV's decoder alone, the limit",
}


@dataclass(frozen=True)
class Setting:
    """What one number of workers and batches ahead gives.

    Attributes:
        workers: Worker processes; 0 reads in the training process.
        prefetch: Batches that each worker prepares ahead.
        images_per_second: Of a consumer that does nothing but take batches.
        mb_per_second: What is read for them, in 1,000,000 bytes.
        stall_share: Share of its time that a consumer waits which spends the given time on every batch.
    """

    workers: int
    prefetch: int
    images_per_second: float
    mb_per_second: float
    stall_share: float


@dataclass(frozen=True)
class BenchReport:
    """What was measured; as a string, the tables that the command line prints.

    Attributes:
        corpus: What was read, in words.
        cores: Cores that this process may use.
        step_ms: Milliseconds that the consumer spends on a batch.
        stages: Times of the stages on one core.
        settings: The sweep.
        files: What was written.
    """

    corpus: str
    cores: int
    step_ms: float
    stages: StageTimes
    settings: tuple[Setting, ...]
    files: tuple[Path, ...] = ()

    @property
    def limit(self) -> float:
        """Images a second that a core decodes at most."""
        return 1 / self.stages.raw

    @property
    def best(self) -> Setting:
        """The fastest setting, or the most frugal one as fast; without workers only if nothing else was tried.

        Without workers, every step of training waits for its batch, however fast that is made.
        """
        candidates = [setting for setting in self.settings if setting.workers] or self.settings
        fastest = max(setting.images_per_second for setting in candidates)
        as_fast = [setting for setting in candidates if setting.images_per_second >= AS_FAST * fastest]
        return min(as_fast, key=lambda setting: (setting.workers, setting.prefetch))

    def __str__(self) -> str:
        size = self.stages.record_bytes
        lines = [self.corpus, "", f"  {'stage, one core':16}{'us/img':>9}{'img/s':>9}{'MB/s':>9}"]
        for name in STAGES:
            seconds = getattr(self.stages, name)
            amount = size if name in ("read", "whole") else self.stages.image_bytes
            rate = f"{1 / seconds * amount / 1e6:9,.0f}" if name in ("read", "decode", "whole", "raw") else f"{'':9}"
            lines.append(f"  {name:16}{1e6 * seconds:9,.0f}{1 / seconds:9,.0f}{rate}  {WHAT[name]}")
        share = self.stages.raw / self.stages.whole
        lines += [f"  whole / raw     {share:9.2f}  CPU time; files in the page cache where they fit", ""]
        lines.append(f"  {'workers':>7}{'prefetch':>10}{'img/s':>9}{'MB/s':>8}{'of limit':>10}{'stalled':>9}")
        lines += [self._line(setting) for setting in self.settings]
        best = self.best
        lines += [
            f"best: {best.workers} workers, prefetch {best.prefetch}: {best.images_per_second:,.0f} img/s"
            f" (the fewest within {1 - AS_FAST:.0%} of the fastest)",
            f"limit: {self.limit:,.0f} img/s a core, as many cores as workers, {self.cores} at most; stalled: share of"
            f" the time that a consumer of {self.step_ms:g} ms a batch waits",
        ]
        return "\n".join([*lines, *(f"written: {path}" for path in self.files)])

    def of_limit(self, setting: Setting) -> float:
        """Return a setting's rate by what its cores could decode."""
        return setting.images_per_second / (self.limit * min(max(setting.workers, 1), self.cores))

    def _line(self, setting: Setting) -> str:
        prefetch = str(setting.prefetch) if setting.workers else "-"
        return (
            f"  {setting.workers:7}{prefetch:>10}{setting.images_per_second:9,.0f}{setting.mb_per_second:8,.0f}"
            f"{self.of_limit(setting):10.2f}{setting.stall_share:9.1%}"
        )


@positional("shards")
def bench(
    shards: list[str] | str,
    workers: str | None = None,
    prefetch: str = "2,4",
    out: Path | None = None,
    batch_size: int = 64,
    in_chans: int = 1,
    num_global_views: int = 2,
    global_size: int = 224,
    num_local_views: int = 8,
    local_size: int = 96,
    open_shards: int = 4,
    step_ms: float = 200.0,
    seconds: float = 3.0,
    num_images: int = 384,
    rounds: int = 5,
) -> BenchReport:
    """Measure the stages of the pretraining stream on one core, then the whole for several workers.

    Args:
        shards: Folder of packed shards, or several; addresses too, as for pretraining.
        workers: Numbers of worker processes to try, such as 0,1,2; by default 0, 1, 2, 4, ... up to the cores.
        prefetch: Numbers of batches ahead of each worker to try.
        out: Folder for bench.csv and bench.png; nothing is written without.
        batch_size: Images in a batch.
        in_chans: Channels of an image, 1 for grey or 3 for RGB.
        num_global_views: Large crops of an image.
        global_size: Side of a large crop in pixels.
        num_local_views: Small crops of an image, 0 for none.
        local_size: Side of a small crop in pixels.
        open_shards: Shards that a worker reads in turn.
        step_ms: Milliseconds that the consumer whose waits are measured spends on a batch.
        seconds: Of each measurement of the sweep, of which every setting takes two.
        num_images: Images of each round of a stage.
        rounds: Rounds of the stages.

    Returns:
        The report, for printing.

    Raises:
        UserError: If shards cannot be read or are fewer than workers, or a number is out of its range.
    """

    def data(num_workers: int, prefetch_factor: int) -> PretrainingDataModule:
        return PretrainingDataModule(
            shards, batch_size, num_workers, in_chans, num_global_views=num_global_views, global_size=global_size,
            num_local_views=num_local_views, local_size=local_size, open_shards=open_shards,
            prefetch_factor=prefetch_factor, pin_memory=False,
        )  # fmt: skip

    if step_ms < 0 or seconds <= 0:
        raise UserError(f"--step_ms {step_ms:g}, --seconds {seconds:g}: must be at least 0, and above 0")
    one = data(0, 1)
    one.setup()
    corpus, cores = one.corpus, count_processes(None)
    numbers = _numbers("workers", workers, 0) if workers else _doublings(min(cores, len(corpus.shards)))
    pairs = _pairs(numbers, _numbers("prefetch", prefetch, 1), len(corpus.shards))
    stages = measure_stages(one, num_images, rounds)
    with one_thread():  # the consumer leaves the cores to the workers, which count them by themselves
        settings = [measure_setting(data(*pair), step_ms / 1000, seconds, stages.record_bytes) for pair in pairs]
    words = f"{one.folders[0]}{' and others' if len(one.folders) > 1 else ''}: {corpus.num_samples:,} images"
    words += f" in {len(corpus.shards):,} shards, {stages.image_bytes / 1000:.1f} kB each, batches of {batch_size}"
    report = BenchReport(words, cores, step_ms, stages, tuple(settings))
    return report if out is None else _write(report, out)


def measure_setting(data: PretrainingDataModule, step: float, seconds: float, record_bytes: float) -> Setting:
    """Measure a loader's rate, then the waits of a consumer that spends `step` seconds on every batch.

    Args:
        data: With the number of workers and batches ahead that are to be measured.
        step: Seconds.
        seconds: Least time of each of the two.
        record_bytes: What is read for an image.
    """
    loader = data.train_dataloader()
    batches = iter(loader)
    for _ in range(max(data.num_workers * data.prefetch_factor, 1)):  # made while the workers started
        next(batches)
    num_batches, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        next(batches)
        num_batches += 1
    rate = num_batches * data.batch_size / passed
    for _ in range(2):  # the workers get ahead
        next(batches)
        time.sleep(step)
    before, start = loader.seconds_waited, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        next(batches)
        time.sleep(step)
    share = (loader.seconds_waited - before) / passed
    prefetch = data.prefetch_factor if data.num_workers else 0
    return Setting(data.num_workers, prefetch, rate, rate * record_bytes / 1e6, share)


def _pairs(workers: Sequence[int], prefetch: Sequence[int], num_shards: int) -> list[tuple[int, int]]:
    if max(workers) > num_shards:
        raise UserError(f"--workers {max(workers)}: more than the {num_shards} shards; use at most {num_shards}")
    # Without workers nothing is made ahead.
    return [(number, ahead) for number in workers for ahead in (prefetch if number else prefetch[:1])]


def _doublings(most: int) -> list[int]:
    return [0, *(1 << power for power in range(most.bit_length()))]


def _numbers(name: str, given: str, least: int) -> list[int]:
    words = re.split(r"[\s,]+", given.strip("[] "))
    try:
        numbers = sorted({int(word) for word in words})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < least:
        raise UserError(f"--{name} {given}: not a list of numbers from {least} on, such as 2,4")
    return numbers


def _write(report: BenchReport, out: Path) -> BenchReport:
    from arl_lightning.data.shards.stats_figure import save_png
    from arl_lightning.data.stream.bench_figure import draw_bench  # a table alone needs no Matplotlib

    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = out / f"{TABLE}.tmp"
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*(field.name for field in fields(Setting)), "of_limit"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(each) | {"of_limit": report.of_limit(each)} for each in report.settings)
        temporary.replace(out / TABLE)
        save_png(draw_bench(report), out / PICTURE)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return BenchReport(**{**vars(report), "files": (out / TABLE, out / PICTURE)})
