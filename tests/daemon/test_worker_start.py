"""A worker that is told something before it serves, or is left alone before."""

import asyncio
import os
import pickle
import socket
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from criproxy.concurrency.process_messages import Message, frame
from criproxy.config.load import LoadedConfig, parse
from criproxy.daemon.control import ControlChannel
from criproxy.daemon.worker.worker import _Worker
from tests.support.raw_sockets import accept, dial, listening
from tests.support.waiting import LIMIT_SECONDS

CONFIG = """
listeners:
  - endpoint: unix://{directory}/proxy.sock
    runtime: unix://{directory}/cri.sock
log: {{file: {directory}/log}}
"""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end of a control channel, and the worker's."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def begin(supervisor: socket.socket, directory: Path, listener: socket.socket) -> None:
    """Tell a worker what to serve."""
    loaded = LoadedConfig(parse(CONFIG.format(directory=directory), "test"))
    message: Message = {
        "op": "start",
        "loaded": pickle.dumps(loaded),
        "endpoints": [f"{directory}/proxy.sock"],
        "supervisor": os.getpid(),
        "shares_pods": False,
        "selects_pods": False,
    }
    socket.send_fds(supervisor, [frame(message, 1)], [listener.fileno()])


def run(worker: socket.socket, *beside: Awaitable[None]) -> int:
    """Run a worker until it ends; return its exit status."""

    async def within() -> int:
        async with asyncio.timeout(LIMIT_SECONDS):
            status, *_ = await asyncio.gather(_Worker("test").run(worker), *beside)
            return status

    return asyncio.run(within())


def test_a_supervisor_that_is_gone(
    short_dir: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    """A worker whose supervisor has died right after the start ends, and takes no clients."""
    supervisor, worker = ends
    with listening(short_dir / "proxy.sock") as listener, dial(short_dir / "proxy.sock"):
        begin(supervisor, short_dir, listener)
        supervisor.close()
        assert run(worker) == 0
        accept(listener).close()  # it is there for the next worker


def test_messages_before_it_serves(
    short_dir: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    """What comes together with the start is handled once the worker serves, in order."""
    supervisor, worker = ends
    received: list[str] = []

    async def supervise() -> None:
        channel = ControlChannel(supervisor, on_message, lambda: None)
        channel.send({"op": "reopen"})
        channel.send({"op": "ask", "id": 7, "what": "metrics"})
        await answered.wait()
        channel.send({"op": "drain", "seconds": 0.0, "last": False})

    def on_message(message: Message, _: list[int]) -> None:
        received.append(message["op"])
        if message["op"] == "answer":
            answered.set()

    answered = asyncio.Event()
    with listening(short_dir / "proxy.sock") as listener:
        begin(supervisor, short_dir, listener)
        assert run(worker, supervise()) == 0
    assert received.index("ready") < received.index("answer")
