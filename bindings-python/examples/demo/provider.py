"""A small outside service: it acts on each request and logs it with its idempotency key, one line a request.

Started as `provider.py LOG`; prints its port.
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Provider(BaseHTTPRequestHandler):
    log_file: int

    def do_POST(self) -> None:
        key = self.headers["Idempotency-Key"]
        path = self.rfile.read(int(self.headers["Content-Length"])).decode()
        # One appended write a line: it is in the file before the caller hears back.
        os.write(self.log_file, f"{key}\t{path}\n".encode())
        answer = key[:8].encode()
        try:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except (BrokenPipeError, ConnectionResetError):
            # The caller was killed before it heard the answer: what it asked for is done all the same.
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the log is the file."""


def main() -> None:
    Provider.log_file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
