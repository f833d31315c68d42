"""Which frames of a cine are taken, worked out by hand."""

from fractions import Fraction

import pytest
from pydicom.dataset import Dataset

from arl_lightning.data.dicom.timing import frame_interval, frame_times, sampled_frames


def header(**attributes):
    data = Dataset()
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    return data


def test_frame_time_spreads_frames_evenly():
    # 33.333 ms: frame 15 is at 499.995 ms, frame 16 at 533.3 ms, frame 31 at 1033.3 ms.
    assert list(sampled_frames(header(FrameTime="33.333"), 40, Fraction(2))) == [0, 16, 31]


def test_a_slow_cine_gives_every_frame():
    assert list(sampled_frames(header(FrameTime="1000"), 4, Fraction(2))) == [0, 1, 2, 3]


def test_a_vector_of_times_counts_first():
    # Frames at 0, 100, 200, 900, 1000, 1100 ms; the vector's first entry is the time before the first frame.
    data = header(FrameTimeVector=["7", "100", "100", "700", "100", "100"], FrameTime="10")
    assert list(frame_times(data, 6)) == [Fraction(n, 10) for n in (0, 1, 2, 9, 10, 11)]
    assert list(sampled_frames(data, 6, Fraction(2))) == [0, 3, 4]


def test_a_vector_may_have_an_entry_for_each_step():
    data = header(FrameTimeVector=["100", "100", "700", "100", "100"], FrameTime="10")
    assert list(frame_times(data, 6)) == [Fraction(n, 10) for n in (0, 1, 2, 9, 10, 11)]


@pytest.mark.parametrize(
    "vector", [["10"], ["0", "100", "100", "100"], ["0", "-5", "50"], ["-5", "50"], ["7", "0", "0"], ["0", "0"]]
)
def test_a_vector_that_cannot_be_is_ignored(vector):
    assert list(frame_times(header(FrameTimeVector=vector, FrameTime="40"), 3)) == [0, Fraction(1, 25), Fraction(2, 25)]


@pytest.mark.parametrize(
    ("attributes", "interval"),
    [
        ({"FrameTime": "20", "CineRate": "10"}, Fraction(1, 50)),
        ({"FrameTime": "0", "CineRate": "10"}, Fraction(1, 10)),
        ({"CineRate": "0", "RecommendedDisplayFrameRate": "50"}, Fraction(1, 50)),
        ({}, Fraction(1, 25)),
    ],
)
def test_the_first_rate_that_makes_sense_counts(attributes, interval):
    assert frame_interval(header(**attributes)) == interval


def test_a_still_is_its_only_frame():
    assert list(sampled_frames(header(), 1, Fraction(1, 100))) == [0]
