import io
import tarfile

import pytest

from arl_lightning.data.shards.tars import Extent, TarDamageError, walk_entries, walk_members


def make_tar(members: list[tuple[str, bytes]], **options) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


TWO = [("a.jpg", b"x" * 700), ("a.json", b"{}"), ("b.json", b"[1]"), ("b.png", b"y" * 512)]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_finds_them(tar_format):
    content = make_tar(TWO, format=tar_format)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    found = [(f"{each.key}.{each.extension}", each.offset, each.size) for each in walk_members(io.BytesIO(content))]
    assert found == expected


def test_a_long_folder_name_is_put_together_again():
    name = "folder/" * 14 + "k0.jpg"
    (member,) = walk_members(io.BytesIO(make_tar([(name, b"1")], format=tarfile.USTAR_FORMAT)))
    assert f"{member.key}.{member.extension}" == name


def test_the_key_ends_at_the_first_dot_of_the_file_name():
    (member,) = walk_members(io.BytesIO(make_tar([("v1.0/k.seg.PNG", b"1")])))
    assert (member.key, member.extension) == ("v1.0/k", "seg.png")


def test_contents_can_be_read_on_the_way_in_whole_or_in_part():
    file = io.BytesIO(make_tar(TWO))
    assert [file.read(min(member.size, 3)) for member in walk_members(file)] == [b"xxx", b"{}", b"[1]", b"yyy"]


def test_nothing_but_headers_is_read():
    class Counting(io.BytesIO):
        num_bytes = 0

        def read(self, size=-1):
            self.num_bytes += size
            return super().read(size)

    file = Counting(make_tar([("a.jpg", bytes(1_000_000)), ("a.json", b"{}")]))
    assert len(list(walk_entries(file))) == 1
    assert file.num_bytes == 4 * 512  # two headers and two empty blocks


def test_a_samples_image_and_record_are_found_in_either_order():
    file = io.BytesIO(make_tar(TWO))
    entries = list(walk_entries(file))
    assert [(entry.key, entry.image_format) for entry in entries] == [("a", "jpg"), ("b", "png")]
    assert [entry.image.read(file) for entry in entries] == [b"x" * 700, b"y" * 512]
    assert [entry.record.read(file) for entry in entries] == [b"{}", b"[1]"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.jpg", b"1")], "sample a: 1 images and 0 records"),
        ([("a.json", b"1")], "sample a: 0 images and 1 records"),
        ([("a.jpg", b"1"), ("a.png", b"1"), ("a.json", b"1")], "sample a: 2 images and 1 records"),
        ([("a.jpg", b"1"), ("a.txt", b"1")], r"sample a: holds a \.txt"),
    ],
)
def test_a_sample_that_is_not_an_image_and_a_record_is_named(members, reason):
    with pytest.raises(TarDamageError, match=reason):
        list(walk_entries(io.BytesIO(make_tar(members))))


@pytest.mark.parametrize("position", [0, 124, 150, 156, 257, 511])
def test_a_flipped_header_byte_is_found_with_its_place(position):
    content = bytearray(make_tar(TWO))
    second = 512 + 1024
    content[second + position] ^= 0x10
    with pytest.raises(TarDamageError, match=f"damaged header at byte {second}"):
        list(walk_members(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("length", "place"),
    [(0, 0), (100, 100), (512, 1536), (1200, 1536), (1536, 1536), (2560, 2560), (5 * 512 + 100, 2660)],
)
def test_a_cut_tar_is_found_wherever_it_is_cut(length, place):
    with pytest.raises(TarDamageError, match=f"ends at or before byte {place}"):
        list(walk_members(io.BytesIO(make_tar(TWO)[:length])))


def test_a_cut_among_the_last_empty_blocks_is_found():
    with pytest.raises(TarDamageError, match="no second empty block at byte 5120"):
        list(walk_members(io.BytesIO(make_tar(TWO)[: 4608 + 512])))


def test_a_link_is_no_member_of_a_shard():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(TarDamageError, match="member at byte 0 is no regular file"):
        list(walk_members(io.BytesIO(stream.getvalue())))


def test_reading_behind_the_end_is_damage():
    with pytest.raises(TarDamageError, match="ends at byte 4, within a member"):
        Extent(2, 10).read(io.BytesIO(b"abcd"))
