"""Downloads from a local server: whole, cut off, killed, continued, wrong; and what is extracted of them."""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from lab.data.file_server import FileServer
from lab.data.layout import FILES, FOLDER

from linear_backprop_lab.data import DataError
from linear_backprop_lab.data._archive import Archive, fetch_cifar10
from linear_backprop_lab.data._download import Unreachable

PARTIAL = "cifar-10-binary.tar.gz.part"
# The members need not have their true size to be downloaded and extracted.
CONTENTS = {name: np.random.default_rng(ord(name[-5])).bytes(100_000) for name in FILES}


def tar_of(contents: dict[str, bytes | None]) -> bytes:
    """A .tar.gz of the files; None makes the member a link to /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


GOOD = tar_of({f"{FOLDER}/{name}": content for name, content in CONTENTS.items()})


def cut_off_at(position: int, server: FileServer, cache: Path) -> int:
    """Download until the server closes at byte `position`; returns how many bytes were kept."""
    server.cut_at = position
    with pytest.raises(DataError, match=r"was cut off .* run again to go on: .* are kept in") as caught:
        fetch_cifar10(archive_at(server), cache)
    server.cut_at = None
    kept = (cache / PARTIAL).stat().st_size
    assert f" {kept:,} bytes are kept in {cache / PARTIAL}" in str(caught.value)
    # The chunk under way, 16 KiB, is lost.
    assert position - 16_384 < kept <= position
    return kept


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def archive_at(server: FileServer, content: bytes = GOOD) -> Archive:
    """What `server` serves, and the hash of `content`."""
    return Archive(server.url, hashlib.md5(content).hexdigest())


def extracted(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_published_archive() -> None:
    assert Archive().url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert Archive().md5 == "c32a1d4ab5d03f1284b67883e8d87530"


def test_a_whole_download(server: FileServer, cache: Path) -> None:
    server.content = GOOD
    folder = fetch_cifar10(archive_at(server), cache)
    assert folder == cache / FOLDER
    assert extracted(folder) == CONTENTS
    assert sorted(path.name for path in cache.iterdir()) == ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"]


def test_a_removed_folder_is_extracted_again_without_the_network(server: FileServer, cache: Path) -> None:
    server.content = GOOD
    folder = fetch_cifar10(archive_at(server), cache)
    folder.rename(cache / "elsewhere")
    assert extracted(fetch_cifar10(archive_at(server), cache)) == CONTENTS
    assert len(server.ranges) == 1


@pytest.mark.parametrize("cut_at", [1, 300_000, len(GOOD) - 1])
@pytest.mark.parametrize("honours_range", [True, False])
def test_a_download_cut_off_is_continued_by_running_again(
    server: FileServer, cache: Path, cut_at: int, honours_range: bool
) -> None:
    server.content, server.honours_range = GOOD, honours_range
    kept = cut_off_at(cut_at, server, cache)
    assert not (cache / FOLDER).exists()
    assert extracted(fetch_cifar10(archive_at(server), cache)) == CONTENTS
    assert server.ranges == [None, f"bytes={kept}-" if kept else None]
    assert not (cache / PARTIAL).exists()


def test_a_download_cut_off_twice(server: FileServer, cache: Path) -> None:
    server.content = GOOD
    first = cut_off_at(200_000, server, cache)
    second = cut_off_at(400_000, server, cache)
    assert extracted(fetch_cifar10(archive_at(server), cache)) == CONTENTS
    assert server.ranges == [None, f"bytes={first}-", f"bytes={second}-"]


def test_a_download_killed_before_its_hash_was_checked(server: FileServer, cache: Path) -> None:
    server.content = GOOD
    cache.mkdir()
    (cache / PARTIAL).write_bytes(GOOD)
    assert extracted(fetch_cifar10(archive_at(server), cache)) == CONTENTS
    assert server.ranges == [f"bytes={len(GOOD)}-"]


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_a_download_killed_in_the_middle(server: FileServer, cache: Path) -> None:
    server.content, server.stall_at = GOOD, 350_000
    program = (
        "import sys; from pathlib import Path; from linear_backprop_lab.data._archive import *;"
        "fetch_cifar10(Archive(*sys.argv[1:3]), Path(sys.argv[3]))"
    )
    archive = archive_at(server)
    arguments = [sys.executable, "-c", program, archive.url, archive.md5, str(cache)]
    partial = cache / PARTIAL
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 300
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = partial.stat().st_size
    assert 0 < kept <= 350_000
    server.stall_at = None
    assert extracted(fetch_cifar10(archive, cache)) == CONTENTS
    assert server.ranges == [None, f"bytes={kept}-"]


def test_a_wrong_hash_is_refused_and_nothing_of_it_kept(server: FileServer, cache: Path) -> None:
    server.content = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
    expected = rf"{re.escape(server.url)} is not the published file: its MD5 sum is not .*run again"
    with pytest.raises(DataError, match=expected):
        fetch_cifar10(archive_at(server), cache)
    assert list(cache.iterdir()) == []
    server.content = GOOD
    assert extracted(fetch_cifar10(archive_at(server), cache)) == CONTENTS


@pytest.mark.parametrize("stale", [b"something else", bytes(2 * len(GOOD))])
def test_a_partial_file_of_something_else_costs_one_run(server: FileServer, cache: Path, stale: bytes) -> None:
    server.content = GOOD
    cache.mkdir()
    (cache / PARTIAL).write_bytes(stale)
    with pytest.raises(DataError, match="MD5 sum"):
        fetch_cifar10(archive_at(server), cache)
    assert extracted(fetch_cifar10(archive_at(server), cache)) == CONTENTS


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_server_without_the_file(server: FileServer, cache: Path, status: int) -> None:
    server.status = status
    with pytest.raises(Unreachable, match=rf"^the server answered with status {status}$"):
        fetch_cifar10(archive_at(server), cache)


def test_a_server_that_is_down(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Port 9 is "discard"; nothing listens there.
    with pytest.raises(Unreachable, match=r"^no connection \(ConnectionError\)$"):
        fetch_cifar10(Archive("http://127.0.0.1:9/cifar-10-binary.tar.gz"), cache)


def test_a_server_that_is_down_does_not_cost_what_was_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    cache.mkdir()
    partial = cache / PARTIAL
    partial.write_bytes(b"kept")
    with pytest.raises(Unreachable):
        fetch_cifar10(Archive("http://127.0.0.1:9/cifar-10-binary.tar.gz"), cache)
    assert partial.read_bytes() == b"kept"


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    server.content = GOOD
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be stored below .*file.*make room, or give a folder"):
        fetch_cifar10(archive_at(server), tmp_path / "file" / "cache")


@pytest.mark.parametrize("name", ["data_batch_4.bin", "test_batch.bin"])
def test_an_archive_without_a_file(server: FileServer, cache: Path, name: str) -> None:
    server.content = tar_of({f"{FOLDER}/{other}": CONTENTS[other] for other in FILES if other != name})
    with pytest.raises(DataError, match=rf"lacks {FOLDER}/{name}; remove the archive and run again"):
        fetch_cifar10(archive_at(server, server.content), cache)
    assert [path.name for path in cache.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_only_the_data_files_are_extracted(server: FileServer, cache: Path, tmp_path: Path) -> None:
    server.content = tar_of(
        {f"{FOLDER}/{name}": content for name, content in CONTENTS.items()}
        | {"../evil": b"evil", str(tmp_path / "absolute"): b"evil", f"{FOLDER}/readme.html": b"text"}
    )
    assert extracted(fetch_cifar10(archive_at(server, server.content), cache)) == CONTENTS
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_link_in_place_of_a_data_file_is_not_followed(server: FileServer, cache: Path) -> None:
    server.content = tar_of({f"{FOLDER}/{name}": CONTENTS[name] for name in FILES[1:]} | {f"{FOLDER}/{FILES[0]}": None})
    with pytest.raises(DataError, match=f"lacks {FOLDER}/{FILES[0]}"):
        fetch_cifar10(archive_at(server, server.content), cache)
