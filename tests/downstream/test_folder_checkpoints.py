"""Encoders from checkpoints that sharded ranks wrote are told apart by what is in their folders."""

from arl_lightning.downstream.encoders import file_sha256

SHARD = "__0_0.distcp"


def write(folder, **changes):
    folder.mkdir()
    for name, text in {"meta.pt": "1", ".metadata": "2", SHARD: "3", **changes}.items():
        (folder / name).write_text(text)
    return file_sha256(folder)


def test_a_folders_hash_follows_what_its_files_hold_and_how_they_are_called(tmp_path):
    hashes = [
        write(tmp_path / "a"),
        write(tmp_path / "b", **{"meta.pt": "0"}),
        write(tmp_path / "c", **{".metadata": "0"}),
        write(tmp_path / "d", **{SHARD: "0"}),
        write(tmp_path / "e", **{"__1_0.distcp": ""}),
        write(tmp_path / "f", **{"meta.pt": "2", ".metadata": "1"}),
    ]
    assert len(set(hashes)) == 6
    (tmp_path / "a" / SHARD).rename(tmp_path / "a/__0_1.distcp")
    assert file_sha256(tmp_path / "a") not in hashes


def test_a_folders_hash_leaves_out_what_no_rank_wrote(tmp_path):
    assert write(tmp_path / "a") == write(tmp_path / "b", **{".nfs0001": "3", ".DS_Store": "4", "notes.txt": "5"})
