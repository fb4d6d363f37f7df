"""A local web server that misbehaves as told."""

import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Event


@dataclass
class FileServer:
    """Serves `content` under every path, and remembers the Range header of every request."""

    url: str = ""
    content: bytes = b""
    status: int = 200
    honours_range: bool = True
    cut_at: int | None = None
    stall_at: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    released: Event = field(default_factory=Event)


def handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.ranges.append(wanted)
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.honours_range else 0
            if server.status != 200:
                self.send_error(server.status)
            elif start >= len(server.content):
                self.send_error(416)
            else:
                self._send(start)

        def _send(self, start: int) -> None:
            total = len(server.content)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            self.end_headers()
            self.wfile.write(server.content[start : server.cut_at or server.stall_at])
            if server.stall_at:
                server.released.wait()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
