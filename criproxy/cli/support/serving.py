"""Runs a server until a signal ends it."""

import asyncio
import signal
from typing import Protocol

import click


class Server(Protocol):
    """What listens between :meth:`start` and :meth:`stop`."""

    async def start(self) -> None:
        """Listen."""

    async def stop(self) -> None:
        """Stop listening, and end all calls."""


def serve(server: Server, serving: str) -> None:
    """Start a server, print a line that says what is served, and stop it at SIGINT or SIGTERM."""
    import uvloop

    async def run() -> None:
        await server.start()
        try:
            await _until_stopped(serving)
        finally:
            await server.stop()

    uvloop.run(run())


async def _until_stopped(serving: str) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    click.echo(serving)
    await stopped.wait()
