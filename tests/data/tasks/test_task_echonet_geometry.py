import numpy as np
import pytest

from arl_lightning.data.tasks.echonet_geometry import fault_of_rows, polygon_area

SIZE = (112, 112)
# The first two rows of the release, as quoted in echonet/dynamic, issue 73.
LONG_AXIS = (51.26041667, 15.34895833, 64.93229167, 69.125)
FIRST_CHORD = (50.03761083, 17.16784126, 53.36722189, 16.32132997)

NO_AXIS = "its first row is not the long axis"
ORDER = "its rows are not in their order along the long axis"
CROSSES = "its outline crosses itself"


def traced(num_chords: int = 20, width: float = 16.0, bend: float = 0.0) -> np.ndarray:
    """Return a ventricle around the release's long axis, (1 + num_chords, 4); `bend` moves its middle aside."""
    start, end = np.array(LONG_AXIS[:2]), np.array(LONG_AXIS[2:])
    along = (end - start) / np.hypot(*(end - start))
    across = np.array([along[1], -along[0]])
    rows = [LONG_AXIS]
    for share in (np.arange(num_chords) + 0.5) / num_chords:
        middle = start + share * (end - start) + bend * np.sin(np.pi * share) * across
        half = width * np.sqrt(1 - (2 * share - 1) ** 2 * 0.8) * across
        rows.append((*(middle - half), *(middle + half)))
    return np.array(rows)


def test_the_chords_of_the_release_are_at_right_angles_to_its_long_axis() -> None:
    axis, chord = (np.subtract(row[2:], row[:2]) for row in (LONG_AXIS, FIRST_CHORD))
    assert abs(axis @ chord) < 1e-4 * np.hypot(*axis) * np.hypot(*chord)
    rows = traced()
    rows[1] = FIRST_CHORD
    assert fault_of_rows(rows, SIZE) == ""


@pytest.mark.parametrize(
    "rows",
    [
        traced(num_chords=5),
        traced(num_chords=40),
        traced(width=5.0),
        traced(width=30.0),  # wider than long
        traced(bend=12.0),
        traced()[:, [2, 3, 0, 1]],  # right ends first
        np.concatenate([traced()[:1], traced()[:0:-1]]),  # from the base on
        traced() + np.array([40.0, 0.0, 40.0, 0.0]),  # some points lie outside of the picture
    ],
)
def test_an_intact_frame_has_no_fault(rows: np.ndarray) -> None:
    assert fault_of_rows(rows, SIZE) == ""


def edited(**rows: object) -> np.ndarray:
    """Return a ventricle with some rows replaced, by `row3=...`."""
    found = traced()
    for name, value in rows.items():
        found[int(name.removeprefix("row"))] = value
    return found


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (np.insert(traced(), 6, traced()[6], axis=0), "a row stands twice"),
        (traced() + np.array([80.0, 0.0, 80.0, 0.0]), "X 131.26 lies outside the picture of 112x112 pixels"),
        (edited(row7=(40.0, 3e5, 60.0, 40.0)), "Y 300000 lies outside the picture"),
        (traced()[1:], NO_AXIS),
        (traced()[[1, 0, *range(2, 21)]], NO_AXIS),
        (traced()[[*range(1, 21), 0]], NO_AXIS),
        (traced()[:8], NO_AXIS),  # its end is cut off
        (edited(row0=(90.0, 15.3, 103.7, 69.1)), NO_AXIS),  # of another ventricle
        (edited(row0=(50.0, 20.0, 50.0, 20.0)), NO_AXIS),
        (edited(row20=(60.0, 84.0, 80.0, 79.0)), "a row lies beyond the ends of the long axis"),
        (traced()[[0, *range(1, 10), 11, 10, *range(12, 21)]], ORDER),
        (traced()[[0, *range(11, 21), *range(1, 11)]], ORDER),
        (edited(row10=traced()[10, [2, 3, 0, 1]]), CROSSES),
        (edited(row20=traced()[20, [2, 3, 0, 1]]), CROSSES),
        (traced(width=0.1), "its outline encloses nothing"),
    ],
)
def test_a_damaged_frame_has_its_fault_named(rows: np.ndarray, fault: str) -> None:
    assert fault_of_rows(rows, SIZE).startswith(fault)


def test_the_picture_may_be_larger() -> None:
    assert fault_of_rows(6 * traced(), (768, 1024)) == ""
    assert "lies outside the picture of 112x112" in fault_of_rows(6 * traced(), SIZE)


def test_the_area_is_that_of_the_shoelace_formula() -> None:
    assert polygon_area(np.array([(0, 0), (4, 0), (4, 3)])) == 6
    assert polygon_area(np.array([(0, 0), (0, 5), (5, 5), (5, 0)])) == 25
