"""A local web server, and CIFAR-10 folders: synthetic, and the real one where it is at hand."""

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from lab.data.file_server import FileServer, handler
from lab.data.layout import FILES, FOLDER, RECORD_BYTES

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = FileServer()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(served)) as listening:
        served.url = f"http://127.0.0.1:{listening.server_address[1]}/cifar-10-binary.tar.gz"
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.released.set()
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder holding `cifar-10-batches-bin` of the full size: random pixels, labels 0 to 9 in turn."""
    parent = tmp_path_factory.mktemp("synthetic")
    (parent / FOLDER).mkdir()
    random = np.random.default_rng(0)
    for name in FILES:
        records = random.integers(0, 256, (10_000, RECORD_BYTES), dtype=np.uint8)
        records[:, 0] = (np.arange(10_000) + len(name)) % 10
        records.tofile(parent / FOLDER / name)
    return parent


@pytest.fixture
def copied(synthetic: Path, tmp_path: Path) -> Path:
    """A `cifar-10-batches-bin` whose files may be replaced, not written into."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name in FILES:
        (folder / name).symlink_to(synthetic / FOLDER / name)
    return folder


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the real CIFAR-10; skips where there is none."""
    for folder in (os.environ.get("LINEAR_BACKPROP_DATA"), REPOSITORY / ".data"):
        if folder and list(Path(folder).glob("**/test_batch.bin")):
            return Path(folder)
    maker = REPOSITORY.parent / "shared" / "bin" / "make-cifar10"
    if not maker.exists():
        pytest.skip("the real CIFAR-10 is not here; LINEAR_BACKPROP_DATA can name its folder")
    folder = tmp_path_factory.mktemp("real")
    subprocess.run([sys.executable, maker, folder], check=True, stdout=subprocess.DEVNULL)
    return folder
