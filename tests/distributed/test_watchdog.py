"""Three gloo processes, one of which does not keep up: the others end and name it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pytest
from stalling_ranks import FAULTS, LONG, SHORT, WORLD_SIZE

from arl_lightning.distributed.watchdog import Record, Watchdog, judge

VERDICT = 20.0  # seconds that looking twice may take, on a busy machine


@dataclass
class Ended:
    """How three ranks ended: exit status, stderr, and seconds from the fault to the end of the last other rank."""

    codes: list[int]
    said: list[str]
    seconds: float


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("stalling_ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, folder], check=True, env=environment, timeout=200)
    results = json.loads((folder / "results.json").read_text())

    def look(fault: str) -> Ended:
        culprit, began = FAULTS[fault][0], float((folder / f"{fault}.began").read_text())
        last = max(time for rank, time in enumerate(results[fault]["ended"]) if rank != culprit)
        said = [(folder / f"{fault}.{rank}.txt").read_text() for rank in range(WORLD_SIZE)]
        return Ended(results[fault]["codes"], said, last - began)

    return look


def error_lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("arl: error: ")]


def test_a_rank_that_is_stopped_is_named_after_the_timeout(ended):
    codes, said, seconds = astuple(ended("stopped"))
    assert codes == [1, -signal.SIGKILL, 1]
    (line,) = error_lines(said[0])
    assert line.startswith("arl: error: rank 0 (host0): in step 5 has not ended for ")
    assert line.endswith("; rank 1 (host1) is gone, last seen waiting for the data of step 5")
    assert "all_reduce" in said[0]  # where it stands
    assert error_lines(said[2]) == []
    assert SHORT - 1 < seconds < SHORT + VERDICT


def test_a_rank_that_is_killed_is_named_within_seconds(ended):
    codes, said, seconds = astuple(ended("killed"))
    assert codes == [1, 1, -signal.SIGKILL]
    lines = [line for rank in said for line in error_lines(rank)]
    assert lines == [
        "arl: error: rank 0 (host0): in step 5: rank 2 (host2) is gone, last seen waiting for the data of step 5"
    ]
    assert seconds < VERDICT


def test_a_rank_that_is_killed_is_named_once_though_the_first_to_tell_has_ended(ended):
    codes, said, _ = astuple(ended("killed, seen late"))
    assert codes == [1, 1, -signal.SIGKILL]
    assert [line.count("rank 2 (host2) is gone") for line in error_lines(said[0])] == [1]
    assert error_lines(said[1]) == []


def test_the_store_goes_with_the_first_rank(ended):
    codes, said, seconds = astuple(ended("first killed"))
    assert codes == [-signal.SIGKILL, 1, 1]
    lines = [line for rank in said for line in error_lines(rank)]
    assert lines == [
        "arl: error: rank 1 (host1): in step 5: rank 0 (host0) is gone, last seen waiting for the data of step 5"
    ]
    assert seconds < 2 * VERDICT


def test_a_rank_that_waits_for_data_is_behind(ended):
    codes, said, seconds = astuple(ended("sleeping"))
    assert codes == [1, 1, 1]
    (line,) = error_lines(said[0])
    assert line.endswith("; rank 1 (host1) is still waiting for the data of step 5")
    assert error_lines(said[1]) == error_lines(said[2]) == []
    assert "<lambda>" in said[1]  # where it sleeps
    assert SHORT - 1 < seconds < SHORT + VERDICT


def test_an_exception_is_told_by_its_rank_and_only_pointed_at_by_others(ended):
    codes, said, seconds = astuple(ended("raising"))
    assert codes == [1, 1, 1]
    assert "rank 1 (host1): Traceback (most recent call last):" in said[1]
    assert error_lines(said[1]) == ["arl: error: rank 1 (host1): ZeroDivisionError: division by zero"]
    assert error_lines(said[0]) == [
        "arl: error: rank 0 (host0): in step 5: rank 1 (host1) failed: ZeroDivisionError: division by zero"
    ]
    assert error_lines(said[2]) == []
    assert "Traceback" not in said[0] + said[2]
    assert seconds < VERDICT


def test_an_exception_of_the_first_rank_is_known_though_its_store_is_gone(ended):
    codes, said, _ = astuple(ended("first raising"))
    assert codes == [1, 1, 1]
    assert error_lines(said[0]) == ["arl: error: rank 0 (host0): ZeroDivisionError: division by zero"]
    assert error_lines(said[1]) == [
        "arl: error: rank 1 (host1): in step 5: rank 0 (host0) failed: ZeroDivisionError: division by zero"
    ]
    assert error_lines(said[2]) == []


def test_a_long_save_is_no_stall(ended):
    codes, said, _ = astuple(ended("saving"))
    assert (codes, said) == ([0, 0, 0], ["", "", ""])


def test_an_interpreter_ends_beside_its_watchdog(ended):
    codes, said, _ = astuple(ended("ending"))
    assert codes == [0, 0, 0]
    assert "terminate" not in "".join(said)


def test_a_rank_tells_once(capsys):
    watchdog = Watchdog(0, 2, "127.0.0.1", 1, LONG)  # nobody listens there
    watchdog.tell("in step 5: rank 1 (host1) is gone")
    watchdog.tell("in step 5 has not ended for 6 s; rank 1 (host1) is gone")
    (line,) = error_lines(capsys.readouterr().err)
    assert line.endswith(": in step 5: rank 1 (host1) is gone")


# ---------------------------------------------------------------- the verdict


def records(*progress: int, beat: int = 0) -> dict[int, Record]:
    return {
        rank: Record(f"node{rank // 2}", count, f"in step {count}", beat + rank) for rank, count in enumerate(progress)
    }


def test_ranks_that_are_equally_far_are_not_to_blame():
    assert judge(records(8, 8), records(8, 8, beat=5), 2).missing == {}


def test_those_behind_the_furthest_and_those_without_a_beat_are_missing():
    now = records(8, 7, 8, 8, beat=5)
    now[3] = records(8, 8, 8, 8)[3]
    verdict = judge(records(8, 7, 8, 8), now, 4)
    assert str(verdict) == "rank 1 (node0) is still in step 7, rank 3 (node1) is gone, last seen in step 8"
    assert verdict.speaker == 0


def test_the_first_that_is_not_missing_speaks():
    verdict = judge(records(7, 8, 8), records(7, 8, 8, beat=5), 3)
    assert (list(verdict.missing), verdict.speaker) == ([0], 1)


def test_a_first_rank_that_has_told_and_ended_is_nobodys_news():
    told = replace(records(8)[0], told=True)
    assert judge({}, {}, 3, first=told).speaker == judge({**records(8, 8, 8), 0: told}, {}, 3).speaker == 0
    assert judge(records(8, 8, 8), {}, 3, first=None).speaker == 1


def test_a_line_names_eight_ranks_and_counts_the_rest():
    said = str(judge(records(8, *[7] * 63), records(8, *[7] * 63, beat=5), 64))
    assert said.count("is still") == 8
    assert said.endswith(", and 55 more")


def test_an_error_is_said_rather_than_what_it_led_to():
    now = records(8, 8)
    now[1] = replace(now[1], failed="UserError: shard is gone")
    assert str(judge(records(8, 8), now, 2)) == (
        "rank 0 (node0) is gone, last seen in step 8, rank 1 (node0) failed: UserError: shard is gone"
    )
