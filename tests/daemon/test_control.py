"""The channel between the supervisor and its processes: messages, descriptors, and the end."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from criproxy.daemon.control import ControlChannel
from tests.support.waiting import LIMIT_SECONDS


class End:
    """One end of a channel, and what it has received."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[tuple[dict[str, Any], list[int]]] = []
        self.received = asyncio.Event()
        self.closed = asyncio.Event()
        self.channel = ControlChannel(sock, self._received, self.closed.set)

    def _received(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self.messages.append((message, descriptors))
        self.received.set()

    async def wait(self, count: int) -> None:
        while len(self.messages) < count:
            self.received.clear()
            await self.received.wait()


def run(test: Callable[[socket.socket, socket.socket], Awaitable[None]]) -> None:
    async def within() -> None:
        one, other = socket.socketpair()
        with one, other:
            async with asyncio.timeout(LIMIT_SECONDS):
                await test(one, other)
            for each in (one, other):
                if each.fileno() >= 0:
                    asyncio.get_running_loop().remove_reader(each)

    asyncio.run(within())


def test_large_messages_in_order() -> None:
    """Messages of any size arrive whole and in order, more than the socket's buffer takes."""

    async def test(one: socket.socket, other: socket.socket) -> None:
        sender, receiver = End(one), End(other)
        sizes = [1, 3_000_000, 0, 700_000, 5]
        for size in sizes:
            assert sender.channel.send({"data": b"x" * size})
        await receiver.wait(len(sizes))
        assert [len(message["data"]) for message, _ in receiver.messages] == sizes
        await sender.channel.flushed()
        assert sender.channel.backlog == 0

    run(test)


def test_descriptors_stay_with_their_message() -> None:
    """Each message has its own descriptors, which are open and not inheritable."""

    async def test(one: socket.socket, other: socket.socket) -> None:
        sender, receiver = End(one), End(other)
        first, second = os.pipe(), os.pipe()
        sender.channel.send({"data": b"x" * 1_000_000}, [first[0], first[1]])
        sender.channel.send({"n": 2})
        sender.channel.send({"n": 3}, [second[1]])
        await receiver.wait(3)
        counts = [len(descriptors) for _, descriptors in receiver.messages]
        assert counts == [2, 0, 1]
        writer = receiver.messages[2][1][0]
        assert not os.get_inheritable(writer)
        os.write(writer, b"!")
        assert os.read(second[0], 1) == b"!"
        received = [each for _, descriptors in receiver.messages for each in descriptors]
        for each in (*first, *second, *received):
            os.close(each)

    run(test)


def test_the_end_of_the_peer() -> None:
    """The end of the peer is reported once, and sending fails from then on."""

    async def test(one: socket.socket, other: socket.socket) -> None:
        end = End(one)
        other.close()
        await end.closed.wait()
        assert not end.channel.send({})

    run(test)


def test_the_rest_of_a_peer_that_has_ended() -> None:
    """What a peer had sent before its end is received at once, without a turn of the loop."""

    async def test(one: socket.socket, other: socket.socket) -> None:
        sender, receiver = End(one), End(other)
        for number in range(50):
            sender.channel.send({"n": number})
        sender.channel.close()
        receiver.channel.receive_rest()
        assert [message["n"] for message, _ in receiver.messages] == list(range(50))
        assert receiver.closed.is_set()

    run(test)


def test_a_finished_channel_still_receives() -> None:
    """After finish() the peer sees the end of the messages, and its last ones still arrive."""

    async def test(one: socket.socket, other: socket.socket) -> None:
        sender, receiver = End(one), End(other)
        sender.channel.send({"data": b"x" * 2_000_000})
        sender.channel.finish()
        await receiver.wait(1)
        await receiver.closed.wait()
        await sender.closed.wait()

    run(test)


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff\x00", b"\x00\x00\x00\x01\x00\xc1"], ids=["length", "content"]
)
def test_bytes_that_are_no_message(data: bytes) -> None:
    """A peer that sends something else is given up, whatever it claims to send."""

    async def test(one: socket.socket, other: socket.socket) -> None:
        end = End(one)
        other.sendall(data)
        await end.closed.wait()
        assert end.messages == []

    run(test)
