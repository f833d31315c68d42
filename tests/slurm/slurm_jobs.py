"""Submits the job scripts as a user would, and follows what becomes of their jobs."""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
# No GPU, and a small part of a node; ARL_TEST_SBATCH adds what a site needs, such as --partition=debug.
SMALL = ("--gpus-per-node=0", "--cpus-per-task=1", "--mem=4G", *shlex.split(os.environ.get("ARL_TEST_SBATCH", "")))
TINY = ("--config", "tests/slurm/tiny.yaml")
PATIENCE = 300.0  # seconds; a busy machine takes a minute to start four ranks


def call(*words: str, **environment: str) -> str:
    """Run a command in the project's folder; fails with what it said where it does."""
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, f"{shlex.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Job:
    """A job, or a task of an array.

    Attributes:
        number: As Slurm has it, A_T for a task of an array.
        log: What its script and ranks wrote.
    """

    number: str
    log: Path

    def told(self) -> dict[str, str]:
        """Return what Slurm knows about it."""
        words = call("scontrol", "-o", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def state(self) -> str:
        """Such as RUNNING."""
        return self.told()["JobState"]

    @property
    def restarts(self) -> int:
        """How often Slurm has started it again."""
        return int(self.told()["Restarts"])

    @property
    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, seconds: float = PATIENCE) -> str:
        """Return the state in which it ended."""
        self.wait_until(lambda: self.state in ENDED, "its end", seconds)
        return self.state

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait for something to happen; fail where it does not, or the job ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"job {self.number}: no {what} within {seconds:.0f} s"
            assert self.state not in ENDED or condition(), f"job {self.number} is {self.state} before {what}"
            time.sleep(0.5)

    def wait_for_step(self, start: int) -> None:
        """Wait until the ranks of this start of the job, the first being 1, have been launched."""

        def launched() -> bool:
            told = self.told()
            steps = call("squeue", "--noheader", "--steps", "--jobs", self.number, "--format", "%i").split()
            return told["JobState"] == "RUNNING" and int(told["Restarts"]) == start - 1 and f"{self.number}.0" in steps

        self.wait_until(launched, f"step of start {start}")


@dataclass
class Submitter:
    """Submits scripts and remembers their jobs.

    Attributes:
        folder: Seen by all nodes; for logs, runs and corpora.
    """

    folder: Path
    jobs: list[Job] = field(default_factory=list)

    def __call__(
        self, script: str, *options: str, words: Sequence[str] = (), by_itself: bool = False, **environment: str
    ) -> Job:
        """Submit a script, by sbatch or by itself.

        Args:
            script: Its name in slurm/.
            options: Of sbatch.
            words: Behind the `--`.
            by_itself: Let the script call sbatch.
            environment: Further variables.
        """
        log = "%x-%A_%a.log" if is_array(script) else "%x-%j.log"
        options = (*SMALL, *options, f"--output={self.folder}/{log}")
        start = [f"slurm/{script}", *options] if by_itself else ["sbatch", *options, f"slurm/{script}"]
        said = call(*start, "--", *words, **environment)
        number = said.split()[-1]
        job = Job(number, self.folder / f"{script.removesuffix('.sh')}-{number}.log")
        self.jobs.append(job)
        return job

    def tasks(self, array: Job) -> list[Job]:
        """Return the tasks of an array that has been submitted."""
        lines = call("scontrol", "-o", "show", "job", array.number).splitlines()
        indices = sorted(int(found[1]) for line in lines if (found := re.search(r"ArrayTaskId=(\d+)\b", line)))
        stem = array.log.name.removesuffix(".log")
        tasks = [Job(f"{array.number}_{index}", self.folder / f"{stem}_{index}.log") for index in indices]
        self.jobs += tasks
        return tasks

    def follower_of(self, array: Job, name: str, seconds: float = PATIENCE) -> Job:
        """Return the job of this name that the first task of an array submits, once it is there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in call("squeue", "--noheader", "--format", "%i %j %E").splitlines():
                number, called, condition = line.split(maxsplit=2)
                if called == name and f":{array.number}_" in condition:
                    job = Job(number, self.folder / f"{name}-{number}.log")
                    self.jobs.append(job)
                    return job
            time.sleep(0.5)
        raise AssertionError(f"no job {name} after array {array.number} within {seconds:.0f} s")

    def cancel(self) -> None:
        """End what a test has left."""
        for job in self.jobs:
            subprocess.run(["scancel", job.number], capture_output=True, check=False)


def is_array(script: str) -> bool:
    """Return whether a script submits an array."""
    return "#SBATCH --array" in (ROOT / "slurm" / script).read_text()


def scripts() -> list[str]:
    """Return the names of all job scripts."""
    return sorted(path.name for path in (ROOT / "slurm").glob("*.sh") if path.name != "lib.sh")
