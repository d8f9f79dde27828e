"""An HTTP server on loopback whose answers a test defines."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Response(NamedTuple):
    """A response; its content-length is added."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}


class Handler(BaseHTTPRequestHandler):
    """Sends what the server's ``answer`` returns for a request and its body."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Any

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        response: Response = self.server.answer(self, body)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


class HttpServer(ThreadingHTTPServer):
    """Serves at ``url`` from its start, with a thread for each connection; a context manager."""

    request_queue_size = 100

    def __init__(
        self, answer: Callable[[Handler, bytes], Response], handler: type[Handler] = Handler
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.answer = answer
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        pass  # a client that is gone

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
