"""Encoders from checkpoints that sharded ranks wrote are told apart by what is in their folders."""

from arl_lightning.downstream.encoders import file_sha256


def write(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return file_sha256(folder)


def test_a_folders_hash_follows_what_its_files_hold_and_how_they_are_called(tmp_path):
    hashes = [
        write(tmp_path / "a", meta="1", shard="2"),
        write(tmp_path / "b", shard="2", meta="1"),
        write(tmp_path / "c", meta="1", shard="3"),
        write(tmp_path / "d", meta="1", shards="2"),
        write(tmp_path / "e", meta="12"),
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
