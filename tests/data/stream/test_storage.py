"""Shards behind commands and web servers, and their local copies."""

import io
import itertools
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest
from test_reader import keys, make_loader, name_and_seed
from tiny_shards import write_shards

from arl_lightning.data.stream import cache, storage
from arl_lightning.data.stream.cache import Cache
from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.reader import ShardStream
from arl_lightning.data.stream.storage import Folder, ShardError, open_stream
from arl_lightning.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", [70, 12, 12, 11])


@pytest.fixture
def served(tmp_path):
    """The address of a web server on `tmp_path`, and how often each file was asked for."""
    asked: Counter[str] = Counter()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[Path(self.path).name] += 1
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def names(address, start=0, num_batches=6, num_workers=0, **arguments) -> list[str]:
    corpus = Corpus.load([address])
    stream = ShardStream(corpus, name_and_seed, 5, num_workers=num_workers, read_retries=0, **arguments)
    stream.seek(start)
    loader = make_loader(stream, num_workers)
    return keys((batch["key"], None) for batch in itertools.islice(loader, num_batches))


@pytest.mark.parametrize(("start", "num_workers"), [(0, 0), (17, 0), (3, 2)])
def test_a_command_gives_the_same_stream_as_the_folder(folder, start, num_workers):
    expected = names(folder, start, 20, num_workers)
    assert names(f"pipe:cat {folder}/{{}}", start, 20, num_workers) == expected


@pytest.mark.parametrize("start", [0, 17])
def test_a_web_server_gives_the_same_stream_as_the_folder(folder, served, start):
    assert names(f"{served[0]}/shards/", start) == names(folder, start)


def test_s3_is_read_with_its_command_line_tool(folder, tmp_path, monkeypatch):
    tool = tmp_path / "bin/aws"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] && cat "{tmp_path}/${{3#s3://bucket/}}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    assert names("s3://bucket/shards") == names(folder)


def test_gs_goes_to_webdataset(monkeypatch):
    opened = []
    monkeypatch.setattr(
        import_module("webdataset.gopen"), "gopen", lambda url, mode: opened.append(url) or io.BytesIO()
    )
    open_stream(Folder("gs://bucket/corpus").url("shard-000000.tar")).close()
    assert opened == ["gs://bucket/corpus/shard-000000.tar"]


def test_a_command_that_a_signal_ends_is_called_again(folder, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    flag = tmp_path / "called"
    once = f"pipe:if [ ! -e {flag} ]; then touch {flag}; kill -USR1 $$; fi; cat {folder}/{{}}"
    assert Folder(once).manifest() == Folder(str(folder)).manifest()
    assert waited == [0.5]


def test_a_file_name_cannot_end_a_command(tmp_path):
    assert Folder("pipe:cat /a/{} | b").url("x;rm y") == "pipe:cat /a/'x;rm y' | b"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "pipe:cat /nowhere/{}",
            r"pipe:cat /nowhere/manifest.json: cannot be read \(the command ended with status 1\); see",
        ),
        (
            "http://127.0.0.1:9/x",
            r"http://127.0.0.1:9/x/manifest.json: cannot be read \(the command ended with status 7\)",
        ),
        ("pipe:cat x", r"data.shards: 'pipe:cat x' needs {} where the file's name goes"),
        (
            "carrier-pigeon://coop",
            r"data.shards: 'carrier-pigeon://coop': unknown scheme; use a folder, pipe:COMMAND, or",
        ),
        ("pipe:echo [] # {}", r"manifest.json: not a shard manifest"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_reached_is_one_line(address, message, capfd):
    with pytest.raises(UserError, match=message) as error:
        Corpus.load([address])
    assert "\n" not in str(error.value)


def test_a_command_is_stopped_with_its_stream():
    stream = open_stream("pipe:printf ab; exec sleep 30 # {}")
    assert stream.read(2) == b"ab"
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 5


# ---------------------------------------------------------------- the cache


def test_each_shard_is_fetched_once_and_read_from_the_cache_from_then_on(folder, served, tmp_path):
    address, asked = served
    expected = names(folder, num_batches=40)
    for _ in range(2):
        assert names(f"{address}/shards", num_batches=40, cache_folder=tmp_path / "cache") == expected
    assert {name: count for name, count in asked.items() if name.endswith(".tar")} == {
        f"shard-{number:06d}.tar": 1 for number in range(4)
    }
    copies = sorted(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert copies == sorted(path.read_bytes() for path in folder.glob("*.tar"))


def test_processes_that_want_a_shard_at_once_all_get_it(folder, tmp_path):
    shard, copies = Corpus.load([folder]).shards[0], Cache(tmp_path / "cache")
    ready = threading.Barrier(4)

    def fetch(_) -> bytes:
        ready.wait()
        with copies.open(shard) as stream:
            return stream.read(1 << 20)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(fetch, range(4))) == {Path(shard.url).read_bytes()}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{shard.sha256}.tar"]


def test_a_copy_of_another_size_is_made_again(folder, tmp_path):
    corpus, copies = Corpus.load([folder]), Cache(tmp_path)
    for shard in corpus.shards:
        copies.open(shard).close()
    copies.place(corpus.shards[0]).write_bytes(b"cut off")
    assert not copies.holds(corpus.shards[0])
    with copies.open(corpus.shards[0]) as stream:
        assert stream.read(1 << 20) == Path(corpus.shards[0].url).read_bytes()


def test_a_copy_that_rots_is_made_again(folder, tmp_path):
    expected = names(folder, num_batches=40)
    for shard in Corpus.load([folder]).shards:
        place = Cache(tmp_path).place(shard)
        place.write_bytes(bytes(1000) + b"rot" + bytes(shard.num_bytes - 1003))
    corpus = Corpus.load([folder])
    stream = ShardStream(corpus, name_and_seed, 5, cache_folder=tmp_path, read_retries=1, sleep=lambda seconds: None)
    assert keys((b["key"], None) for b in itertools.islice(make_loader(stream), 40)) == expected
    assert int(stream.damage.total()[1:].sum()) == 0


def test_what_is_not_the_manifests_never_gets_into_the_cache(folder, tmp_path):
    shard = Corpus.load([folder]).shards[0]
    content = bytearray(Path(shard.url).read_bytes())
    content[700] ^= 1
    Path(shard.url).write_bytes(content)
    with pytest.raises(ShardError, match="its checksum is not the manifest's"):
        Cache(tmp_path / "cache").open(shard)
    assert list((tmp_path / "cache").iterdir()) == []


def test_too_little_space_is_refused_in_numbers(folder, tmp_path, monkeypatch):
    corpus, copies = Corpus.load([folder]), Cache(tmp_path / "cache")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 1000))
    big = [storage.Shard("a", 1, 5 * 10**10, "a"), storage.Shard("b", 1, 10**10, "b")]
    with pytest.raises(UserError, match=r"data.cache_folder: .*: 0.00 GB are free and 60.00 GB of shards are still"):
        copies.prepare(big)
    monkeypatch.undo()
    copies.prepare(corpus.shards)
    copies.open(corpus.shards[0]).close()
    rest = corpus.num_bytes - corpus.shards[0].num_bytes
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, rest))
    copies.prepare(corpus.shards)  # what is there already needs no more room


def test_a_full_disk_leaves_the_shards_readable(folder, tmp_path, monkeypatch):
    def full(self, shard):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cache, "_copy", full)
    assert names(folder, cache_folder=tmp_path) == names(folder)


def test_copies_that_a_killed_process_left_are_removed(tmp_path):
    old, young = tmp_path / "a.1-00.part", tmp_path / "b.2-00.part"
    for path in (old, young):
        path.write_bytes(b"part")
    os.utime(old, (0, 0))
    Cache(tmp_path).prepare([])
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


def test_a_cache_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"data.cache_folder: .*/file/cache: cannot be used \(Not a directory\); choose"
    ):
        Cache(tmp_path / "file/cache").prepare([])
