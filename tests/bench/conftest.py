"""A criproxy whose metrics are given by a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


@pytest.fixture
def serve_metrics() -> Iterator[Callable[[str], str]]:
    """Return what serves a page of metrics, and says at which address."""
    with ExitStack() as stack:

        def serve(page: str) -> str:
            class Page(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(page.encode())

                def log_message(self, *words: object) -> None:
                    pass

            server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Page))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"127.0.0.1:{server.server_port}"

        yield serve
