"""A real Slurm for the job scripts: `make test-slurm` finds or starts one; `make test` leaves these tests out."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_jobs import ROOT, SMALL, Submitter, call

collect_ignore_glob = [] if os.environ.get("ARL_TEST_SLURM") else ["test_*.py"]

NUM_SAMPLES = 128


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """A folder that all nodes see: below the project's, as only that surely is."""
    (ROOT / "runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="test-slurm-", dir=ROOT / "runs"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def settings(shared: Path) -> None:
    """Take the tests' own environment, and none of the site's settings that whoever tests may have."""
    for name in ("ARL_ROOT", "ARL_RANK_REPORT", "TASKS", "SEEDS", "SPECS", "DATA", "OUT", "CKPT", "MASTER_ADDR"):
        os.environ.pop(name, None)
    own = shared / "cluster.env"
    # For the jobs too that a script submits after its own.
    own.write_text(f"VENV={sys.prefix}\nCPU_OPTIONS=({shlex.join(SMALL)} --output={shared}/%x-%j.log)\n")
    os.environ.setdefault("ARL_CLUSTER_ENV", str(own))


@pytest.fixture(scope="session")
def corpus(shared: Path) -> Path:
    """Phantoms: 128 in 64 shards, two for each of 64 ranks."""
    folder = shared / "corpus"
    words = ["--source", "phantom", "--num_samples", str(NUM_SAMPLES), "--samples_per_shard", "2", "--short_side", "48"]
    call(f"{sys.prefix}/bin/arl", "shards", "pack", *words, "--out", str(folder))
    return folder


@pytest.fixture
def submit(shared: Path, request: pytest.FixtureRequest) -> Iterator[Submitter]:
    """Submits scripts; what is left is cancelled, and a test that fails shows its jobs' logs."""
    submitter = Submitter(shared)
    request.node.stash[SUBMITTER] = submitter
    yield submitter
    submitter.cancel()


SUBMITTER = pytest.StashKey[Submitter]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed and SUBMITTER in item.stash:
        for job in item.stash[SUBMITTER].jobs:
            report.sections.append((f"log of job {job.number}", job.text or f"{job.log}: not there"))
    return report
