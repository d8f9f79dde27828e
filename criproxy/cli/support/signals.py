"""Waits for the signals that end a command which serves."""

import asyncio
import signal

import click


async def until_stopped(serving: str) -> None:
    """Print a line that says what is served, and return at SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    click.echo(serving)
    await stopped.wait()
