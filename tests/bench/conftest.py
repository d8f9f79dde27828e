"""A criproxy whose metrics are given by a test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.http_server import HttpServer, Response


@pytest.fixture
def serve_metrics() -> Iterator[Callable[[str], str]]:
    """Return a function that serves a page of metrics, and returns its address."""
    with ExitStack() as stack:

        def serve(page: str) -> str:
            server = stack.enter_context(HttpServer(lambda *_: Response(page.encode())))
            return server.url.removeprefix("http://")

        yield serve
