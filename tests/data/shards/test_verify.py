import dataclasses
import hashlib
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_corpus import make_item, make_items, write_corpus

from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.shards.verify import verify
from arl_lightning.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three shards of four samples without a fault."""
    return write_corpus(tmp_path / "corpus", make_items())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def faults(folder: Path, capsys: pytest.CaptureFixture[str], **options) -> list[str]:
    """Verify a folder with faults and return them as they were printed."""
    with pytest.raises(UserError) as caught:
        verify(folder, **{"processes": 1, **options})
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("shard-", "stray"))]
    assert f"{len(found)} fault" in str(caught.value)
    for line in {line.partition(":")[0]: line for line in reversed(found)}.values():  # the first of each shard
        assert line in str(caught.value)
    return found


def test_a_whole_corpus_is_right_and_left_as_it_is(corpus):
    before = {path: path.read_bytes() for path in corpus.iterdir()}
    report = verify(corpus, processes=1)
    assert (report.num_shards, report.num_samples, report.decoded) == (3, 12, True)
    assert report.num_bytes == sum(path.stat().st_size for path in corpus.glob("*.tar"))
    assert str(report).splitlines()[:2] == [
        f"{corpus}: 12 images in 3 shards are as packed",
        "  checked    checksums, sizes, counts, records, keys; every image decodes",
    ]
    assert {path: path.read_bytes() for path in corpus.iterdir()} == before


def test_a_flipped_byte_in_an_image_is_found_with_its_sample(corpus, capsys):
    path = corpus / "shard-000001.tar"
    with tarfile.open(path) as tar:
        member = tar.getmember("000000000000abc6.jpg")
    flip(path, member.offset_data + member.size // 2)
    sample, shard = faults(corpus, capsys)
    assert sample == "shard-000001.tar: sample 000000000000abc6: its image's sha256 differs from its record's"
    assert shard.startswith("shard-000001.tar: sha256 ")


def test_a_flipped_byte_in_the_padding_is_found(corpus, capsys):
    path = corpus / "shard-000002.tar"
    flip(path, path.stat().st_size - 1)
    assert [line.split(" where")[0][:24] for line in faults(corpus, capsys)] == ["shard-000002.tar: sha256"]


def test_a_flipped_byte_in_a_header_is_found_with_its_place(corpus, capsys):
    path = corpus / "shard-000000.tar"
    with tarfile.open(path) as tar:
        place = tar.getmember("000000000000abc2.json").offset
    flip(path, place + 3)
    assert faults(corpus, capsys)[0] == f"shard-000000.tar: not a whole tar: damaged header at byte {place}"


def test_a_missing_shard_is_found(corpus, capsys):
    (corpus / "shard-000001.tar").unlink()
    assert faults(corpus, capsys) == ["shard-000001.tar: missing"]


def test_a_truncated_shard_is_found_with_the_sample_that_is_cut(corpus, capsys):
    path = corpus / "shard-000001.tar"
    with tarfile.open(path) as tar:
        member = tar.getmember("000000000000abc6.jpg")
    size = path.stat().st_size
    cut = member.offset_data + member.size // 2
    path.write_bytes(path.read_bytes()[:cut])
    assert faults(corpus, capsys) == [
        f"shard-000001.tar: {cut:,} bytes where the manifest says {size:,} (truncated)",
        "shard-000001.tar: not a whole tar: ends within sample 000000000000abc6",
    ]


def test_an_empty_shard_is_found(corpus, capsys):
    (corpus / "shard-000002.tar").write_bytes(b"")
    assert faults(corpus, capsys)[0].startswith("shard-000002.tar: 0 bytes where")


def test_two_swapped_shards_are_both_told(corpus, capsys):
    first, second, aside = corpus / "shard-000000.tar", corpus / "shard-000002.tar", corpus / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    found = faults(corpus, capsys)
    assert "shard-000000.tar: holds what the manifest lists as shard-000002.tar" in found
    assert "shard-000002.tar: holds what the manifest lists as shard-000000.tar" in found
    assert not [line for line in found if line.startswith("shard-000001")]


def test_a_tar_that_is_not_listed_is_found(corpus, capsys):
    shutil.copy(corpus / "shard-000000.tar", corpus / "stray.tar")
    assert faults(corpus, capsys) == ["stray.tar: not in the manifest; move it away, or bring its manifest"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"anatomy": "knee"}, "its record's anatomy 'knee' is not in the vocabulary"),
        ({"anatomy": None}, "its record's anatomy is null"),
        ({"height": "24"}, 'its record\'s height is "24"'),
        ({"height": 24.0}, "its record's height is 24.0"),
        ({"height": True}, "its record's height is true"),
        ({"frame": -1}, "its record's frame is -1"),
        ({"spacing_mm": [0.1]}, "its record's spacing_mm is [0.1]"),
        ({"spacing_mm": [0.1, float("nan")]}, "its record's spacing_mm is [0.1, NaN]"),
        ({"spacing_mm": [float("inf"), 1]}, "its record's spacing_mm is [Infinity, 1]"),
        ({"spacing_mm": [0.1, 0]}, "its record's spacing_mm is [0.1, 0]"),
        ({"patient": 7}, "its record's patient is 7"),
        ({"label": "malignant"}, "its record has 'label', which the schema does not know"),
        ({"width": 33}, "its image is 24 x 32 where its record says 24 x 33"),
        ({"sha256": "0" * 64}, "its image's sha256 differs from its record's"),
    ],
)
def test_an_altered_record_is_found(tmp_path, capsys, change, reason):
    shards = make_items()
    shards[1][2].record.update(change)
    folder = write_corpus(tmp_path / "corpus", shards)
    assert faults(folder, capsys) == [f"shard-000001.tar: sample 000000000000abc6: {reason}"]


def test_a_record_without_a_key_of_the_schema_is_found(tmp_path, capsys):
    shards = make_items()
    del shards[0][1].record["patient"]
    folder = write_corpus(tmp_path / "corpus", shards)
    assert faults(folder, capsys) == ["shard-000000.tar: sample 000000000000abc1: its record has no 'patient'"]


def test_all_that_the_schema_allows_is_right(tmp_path):
    items = [
        make_item(0, anatomy="other", patient="p", video="v", frame=0, probe="convex", spacing_mm=[0.1, 1]),
        make_item(1, shape=(24, 32, 3), extension="png", anatomy="soft_tissue"),
    ]
    assert verify(write_corpus(tmp_path / "corpus", [items]), processes=1).num_samples == 2


def test_a_vocabulary_of_ones_own_is_known_if_it_is_given(tmp_path, capsys):
    folder = write_corpus(tmp_path / "corpus", [[make_item(0, anatomy="knee")]])
    assert verify(folder, processes=1, anatomies=["Knee", "hip"]).num_samples == 1
    assert len(faults(folder, capsys)) == 1


def replace_image(item, encoded: bytes) -> None:
    """Put other bytes in an image's place, with a record that vouches for them."""
    item.encoded = encoded
    item.record["sha256"] = hashlib.sha256(encoded).hexdigest()


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"no image", "its image is no jpg"),
        (b"", "its image is no jpg"),
        (b"\xff\xd8\xff" + bytes(50), "its image does not decode"),
        (cv2.imencode(".png", np.zeros((24, 32), np.uint8))[1].tobytes(), "its image is no jpg"),
    ],
)
def test_an_image_that_does_not_decode_is_found(tmp_path, capsys, encoded, reason):
    shards = make_items()
    replace_image(shards[2][3], encoded)
    folder = write_corpus(tmp_path / "corpus", shards)
    assert faults(folder, capsys) == [f"shard-000002.tar: sample 000000000000abcb: {reason}"]


def test_a_16_bit_image_is_found(tmp_path, capsys):
    item = make_item(0, extension="png")
    replace_image(item, cv2.imencode(".png", np.zeros((24, 32), np.uint16))[1].tobytes())
    folder = write_corpus(tmp_path / "corpus", [[item]])
    assert "its image is uint16 of shape (24, 32), neither 8-bit grey nor RGB" in faults(folder, capsys)[0]


def test_without_decoding_only_what_needs_it_goes_unseen(tmp_path, capsys):
    shards = make_items()
    replace_image(shards[2][3], b"\xff\xd8\xff" + bytes(50))
    folder = write_corpus(tmp_path / "corpus", shards)
    report = verify(folder, processes=1, decode=False)
    assert "images were not decoded" in str(report)
    flip(folder / "shard-000000.tar", 600)
    assert len(faults(folder, capsys, decode=False)) == 2


def test_a_key_that_stands_twice_is_found_with_both_shards(tmp_path, capsys):
    shards = make_items()
    shards[2][1].key = shards[0][3].key
    folder = write_corpus(tmp_path / "corpus", shards)
    assert faults(folder, capsys) == [
        "shard-000002.tar: sample 000000000000abc3: its key stands in shard-000000.tar too"
    ]


def test_a_key_of_another_form_is_found(tmp_path, capsys):
    shards = make_items()
    shards[0][0].key = "img_1"
    folder = write_corpus(tmp_path / "corpus", shards)
    assert faults(folder, capsys) == ["shard-000000.tar: sample img_1: its key is not 16 hexadecimal digits"]


def test_a_sample_of_other_files_is_found(tmp_path, capsys):
    shards = make_items()
    shards[0][0].more["txt"] = b"a note"
    folder = write_corpus(tmp_path / "corpus", shards)
    reason = "holds a .txt file, neither image nor record"
    assert reason in faults(folder, capsys)[0]


def relist(folder: Path, number: int, **change) -> None:
    infos = list(Manifest.load(folder).shards)
    infos[number] = dataclasses.replace(infos[number], **change)
    Manifest(tuple(infos)).save(folder)


def test_counts_that_differ_from_the_manifest_are_found(corpus, capsys):
    relist(corpus, 1, num_samples=5, anatomies={"breast": 3, "lung": 1}, sources={"set": 4, "other": 1})
    assert faults(corpus, capsys) == [
        "shard-000001.tar: 4 samples where the manifest says 5",
        "shard-000001.tar: 4 samples of breast where the manifest says 3",
        "shard-000001.tar: 0 samples of other where the manifest says 1",
    ]


def test_a_manifest_that_does_not_count_sources_is_right(corpus):
    relist(corpus, 1, sources={})
    assert verify(corpus, processes=1).num_samples == 12


def test_a_shard_that_is_listed_twice_is_found(corpus, capsys):
    infos = Manifest.load(corpus).shards
    Manifest((*infos, infos[0])).save(corpus)
    found = faults(corpus, capsys)
    assert found[0] == "shard-000000.tar: listed twice in the manifest"
    assert len(found) == 1 + 4  # and each of its keys stands twice


def test_many_faults_are_counted_and_the_first_told(tmp_path, capsys):
    items = [make_item(index, anatomy="knee") for index in range(30)]
    folder = write_corpus(tmp_path / "corpus", [items])
    with pytest.raises(UserError, match=r"30 faults in 1 shard: shard-000000\.tar: sample 000000000000abc0: "):
        verify(folder, processes=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("shard-")]
    assert len(lines) == 21
    assert lines[-1] == "shard-000000.tar: and 10 more"


def test_the_last_line_names_ten_shards_and_counts_the_rest(tmp_path):
    folder = write_corpus(tmp_path / "corpus", make_items(13, 1))
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(UserError) as caught:
        verify(folder, processes=1)
    assert str(caught.value).startswith(f"{folder}: 13 faults in 13 shards: shard-000000.tar: missing; ")
    assert str(caught.value).count("missing") == 10
    assert str(caught.value).endswith("; and 3 more shards; copy these shards again, or pack again")


def test_all_splits_are_checked_and_named(tmp_path, capsys):
    shards = make_items()
    write_corpus(tmp_path / "corpus/train", shards[:2])
    write_corpus(tmp_path / "corpus/val", shards[2:])
    assert verify(tmp_path / "corpus", processes=1).num_samples == 12
    (tmp_path / "corpus/val/shard-000000.tar").unlink()
    shutil.copy(tmp_path / "corpus/train/shard-000001.tar", tmp_path / "corpus/train/stray.tar")
    with pytest.raises(UserError, match=r"train/stray\.tar: not in .*; val/shard-000000\.tar: missing"):
        verify(tmp_path / "corpus", processes=1)


def test_a_key_in_two_splits_is_found(tmp_path):
    shards = make_items()
    write_corpus(tmp_path / "corpus/train", shards[:2])
    write_corpus(tmp_path / "corpus/val", shards[1:])
    with pytest.raises(
        UserError, match=r"val/shard-000000\.tar: sample \w+: its key stands in train/shard-000001\.tar"
    ):
        verify(tmp_path / "corpus", processes=1)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: missing"):
        verify(tmp_path)


def test_two_processes_find_the_same(corpus, capsys):
    flip(corpus / "shard-000000.tar", 600)
    (corpus / "shard-000002.tar").unlink()
    assert sorted(faults(corpus, capsys, processes=2)) == faults(corpus, capsys, processes=1)


def test_a_number_of_processes_below_1_is_refused(corpus):
    with pytest.raises(UserError, match="--processes 0"):
        verify(corpus, processes=0)


def test_a_shard_whose_claim_exceeds_the_file_is_not_read_into_memory(tmp_path, capsys):
    folder = write_corpus(tmp_path / "corpus", make_items(1, 1))
    path = folder / "shard-000000.tar"
    info = tarfile.TarInfo("000000000000abcf.jpg")
    info.size = 8_000_000_000
    header = info.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(header + bytes(1024))
    relist(folder, 0, num_bytes=path.stat().st_size)
    assert "not a whole tar: ends within sample 000000000000abcf" in faults(folder, capsys)[0]
