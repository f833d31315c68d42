"""Tells whether a frame's rows of EchoNet-Dynamic's tracings are a long axis and chords across it, in their order.

R rows (x1, y1, x2, y2) in pixels, C = R - 1 chords, E = 2 C edges of the outline. Chords of the release are parallel,
as its authors say (echonet/dynamic, issue 73), and at right angles to the long axis: in order and with their ends on
their sides they make an outline that does not cross itself.
"""

import numpy as np

BEYOND = 0.1  # of the picture's width or height that a point may lie outside of it
STEEPEST = 0.5  # cosine of the angle between the long axis and a chord; 0 in the release
LEAST_SPAN = 0.5  # of the long axis that its chords reach over
FAR = 0.1  # of the long axis that a chord may lie beyond its ends
JITTER = 0.25  # pixels that a chord may lie before the one that it follows
SHORTEST = 1.0  # pixels of a chord or an axis whose direction says something
LEAST_AREA = 0.002  # of the picture


def fault_of_rows(rows: np.ndarray, size: tuple[int, int]) -> str:
    """Say what is wrong with a frame's rows, (R, 4), or return an empty text.

    Args:
        rows: In the table's order, with at least two chords.
        size: Height and width of the picture.
    """
    height, width = size
    across, down = rows[:, 0::2], rows[:, 1::2]  # (R, 2) each
    for name, values, side in (("X", across, width), ("Y", down, height)):
        outside = np.abs(values - side / 2) > (0.5 + BEYOND) * side
        if outside.any():
            return f"{name} {values[outside][0]:g} lies outside the picture of {width}x{height} pixels"
    if len(set(map(tuple, rows.tolist()))) < len(rows):
        return "a row stands twice"
    return _fault_of_axis(rows) or _fault_of_outline(rows[1:], LEAST_AREA * height * width)


def _fault_of_axis(rows: np.ndarray) -> str:
    starts, ends = rows[:, :2], rows[:, 2:]  # (R, 2)
    axis, chords = ends[0] - starts[0], ends[1:] - starts[1:]  # (2,), (C, 2)
    length, lengths = float(np.hypot(*axis)), np.hypot(chords[:, 0], chords[:, 1])
    no_axis = "its first row is not the long axis, which crosses all others; a row is missing, or they are out of order"
    if length < SHORTEST:
        return no_axis
    along = axis / length
    if (np.abs(chords @ along) > STEEPEST * np.maximum(lengths, SHORTEST)).any():
        return no_axis
    places = ((starts[1:] + ends[1:]) / 2 - starts[0]) @ along  # (C,), of the chords' middles, from the axis' start
    sides = [
        np.sign(along[0] * (each[1:, 1] - starts[0, 1]) - along[1] * (each[1:, 0] - starts[0, 0]))
        for each in (starts, ends)
    ]
    if np.ptp(places) < LEAST_SPAN * length or np.mean(sides[0] * sides[1] <= 0) < 0.5:
        return no_axis
    if places.min() < -FAR * length or places.max() > (1 + FAR) * length:
        return "a row lies beyond the ends of the long axis, its first row"
    steps = np.diff(places) * np.sign(places[-1] - places[0])
    return "its rows are not in their order along the long axis" if (steps < -JITTER).any() else ""


def _fault_of_outline(chords: np.ndarray, least_area: float) -> str:
    points = np.concatenate([chords[:, :2], chords[::-1, 2:]])  # (E, 2)
    if _crosses_itself(points):
        return "its outline crosses itself; rows are out of order, or the ends of one are swapped"
    return "its outline encloses nothing" if polygon_area(points) < least_area else ""


def _crosses_itself(points: np.ndarray) -> bool:
    """Tell whether two edges of a closed polygon (E, 2) cross; edges that merely touch do not."""
    after = np.roll(points, -1, axis=0)
    edges = after - points

    def side(others: np.ndarray) -> np.ndarray:
        """Return (E, E) on which side of each edge each point lies."""
        offsets = others[None] - points[:, None]  # (E, E, 2)
        return np.sign(edges[:, None, 0] * offsets[..., 1] - edges[:, None, 1] * offsets[..., 0])

    parted = side(points) * side(after) < 0
    return bool((parted & parted.T).any())


def polygon_area(points: np.ndarray) -> float:
    """Return the area of a closed polygon (E, 2), by the shoelace formula."""
    after = np.roll(points, -1, axis=0)
    return float(abs((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum()) / 2)
