"""Measures how fast shards become batches here: the function behind `arl shards bench`."""

import csv
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from arl_lightning.arguments import positional
from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.shards.inventory import count_processes
from arl_lightning.data.tuning.bench_report import BenchReport, Setting
from arl_lightning.data.tuning.stages import measure_stages, one_thread
from arl_lightning.errors import UserError

TABLE = "bench.csv"
PICTURE = "bench.png"


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
    from arl_lightning.data.tuning.bench_figure import draw_bench  # a table alone needs no Matplotlib

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
