"""How fast shards become batches, as numbers and as the tables that the command line prints."""

from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.tuning.stages import STAGES, StageTimes

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
