from pathlib import Path

from arl_lightning.data.wording import count, human_size, one_line


def test_one_thing_is_no_plural():
    assert [count(number, "file") for number in (0, 1, 2, 1234)] == ["0 files", "1 file", "2 files", "1,234 files"]


def test_bytes_are_told_in_the_unit_that_suits_them():
    assert [human_size(each) for each in (500, 2_500_000, 162e9, 3e12)] == ["0.5 kB", "2.5 MB", "162.0 GB", "3.0 TB"]


def test_a_name_breaks_no_line_and_can_be_written():
    assert one_line(Path("a\nb\tc\x1b[2J")) == r"a\nb\tc\x1b[2J"
    assert one_line("\udcff").encode() == rb"\udcff"
    assert one_line("größe 1 µm.png") == "größe 1 µm.png"
