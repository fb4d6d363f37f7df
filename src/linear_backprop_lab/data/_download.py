"""A download that goes on where an earlier one was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ._errors import DataError

_CONNECT_SECONDS = 5
_SILENCE_SECONDS = 30
# A transfer that is cut off loses the chunk under way.
_CHUNK_BYTES = 1 << 14


class Unreachable(Exception):
    """The server gave no answer, or not the file; str() is the reason, without addresses or paths."""


class ResumingDownloader:
    """A downloader for pooch that keeps what it has in a partial file until the file is whole.

    A second call asks for the missing bytes alone (HTTP Range); from a server that sends the whole file
    regardless, the whole file is taken. Whether the parts fit together is for pooch's hash to say: the
    partial file is handed over when it is complete, and never kept beyond that.

    Args:
        partial: Where the partial file lies, on the same file system as the final one.
    """

    def __init__(self, partial: Path) -> None:
        self.partial = partial

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        """Download `url` to the path `output_file`; pooch calls this.

        Raises:
            Unreachable: Nothing was transferred.
            DataError: The transfer was cut off; running again continues it.
        """
        with self._request(url) as response:
            if response.status_code != requests.codes.requested_range_not_satisfiable:
                self._receive(response)
        self.partial.replace(output_file)

    @property
    def _bytes_kept(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _request(self, url: str) -> requests.Response:
        """The server's answer, its body not yet read.

        Status 416 means that no byte is missing: the transfer was killed between its last byte and the hash.
        """
        headers = {"Accept-Encoding": "identity"}
        if self._bytes_kept:
            headers["Range"] = f"bytes={self._bytes_kept}-"
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, _SILENCE_SECONDS))
        except requests.RequestException as error:
            raise Unreachable(f"no connection ({type(error).__name__})") from error
        if response.ok or (self._bytes_kept and response.status_code == 416):
            return response
        response.close()
        raise Unreachable(f"the server answered with status {response.status_code}")

    def _receive(self, response: requests.Response) -> None:
        """Append the body to the partial file, or begin it anew where the server sends the whole file."""
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {self._bytes_kept}-")
        start = self._bytes_kept if continued else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        try:
            with self.partial.open("ab" if continued else "wb") as file, _progress_bar() as progress:
                task = progress.add_task("CIFAR-10", total=total, completed=start)
                for chunk in response.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    progress.advance(task, len(chunk))
        except requests.RequestException as error:
            raise DataError(
                f"the download of {response.url} was cut off ({type(error).__name__}); run again to go on: "
                f"{self._bytes_kept:,} bytes are kept in {self.partial}"
            ) from error


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
