"""The process that runs one hook script: ``python -m criproxy.enforce.hooks.runner FD``.

``FD`` is a socket to the worker that started it (see criproxy.enforce.hooks.runner_protocol). The
process ends when the worker closes the socket or dies. Plain functions run in threads, so that they
may block; async functions run on the event loop.
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock, Thread
from typing import Any, Final

import msgspec
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from criproxy.cri import messages  # noqa: F401 - registers the CRI's messages in protobuf's pool
from criproxy.enforce.hooks import runner_protocol as protocol
from criproxy.enforce.hooks.script import CallFailedError, Script, ScriptError
from criproxy.hook import Call, Deny
from criproxy.rules.facts import Facts

_THREADS: Final = 8
"""Plain functions that run at a time."""

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal that this process gets when the thread that started it ends."""


class _Runner:
    """Calls the functions of a script on behalf of the worker."""

    def __init__(self, channel: socket.socket, script: Script) -> None:
        self._channel = channel
        self._script = script
        self._writing = Lock()
        self._threads = ThreadPoolExecutor(_THREADS)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Handle messages until the process ends."""
        loop = asyncio.get_running_loop()
        Thread(target=self._read, args=(loop,), daemon=True).start()
        await loop.create_future()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message to the worker, from any thread."""
        with self._writing:
            self._channel.sendall(protocol.frame(message))

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                message = protocol.receive(self._channel, protocol.from_worker)
                loop.call_soon_threadsafe(self._handle, message)
        except EOFError:
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _handle(self, message: Any) -> None:
        if isinstance(message, protocol.Cancel):
            task = self._tasks.get(message.number)
            if task is not None:
                task.cancel()
        elif self._script.is_async(message.phase):
            task = asyncio.get_running_loop().create_task(self._call_async(message))
            self._tasks[message.number] = task
            task.add_done_callback(lambda _: self._tasks.pop(message.number))
        else:
            self._threads.submit(self._call, message)

    def _call(self, call: protocol.Call) -> None:
        try:
            self._finish(call.number, self._script.call(call.phase, _call_of(call, None)))
        except Exception as error:
            self._fail(call.number, error)

    async def _call_async(self, call: protocol.Call) -> None:
        delay = partial(self._delay, call.number)
        try:
            changed = await self._script.call_async(call.phase, _call_of(call, delay))
            self._finish(call.number, changed)
        except asyncio.CancelledError:
            self.send(protocol.Outcome(call.number, error="cancelled"))
        except Exception as error:
            self._fail(call.number, error)

    async def _delay(self, number: int, seconds: float) -> None:
        self.send(protocol.Delayed(number, seconds))
        await asyncio.sleep(seconds)

    def _finish(self, number: int, changed: Message | None) -> None:
        data = None if changed is None else changed.SerializeToString()
        self.send(protocol.Outcome(number, changed=data))

    def _fail(self, number: int, error: Exception) -> None:
        if isinstance(error, Deny):
            self.send(protocol.Outcome(number, denial=(int(error.code), str(error.message))))
        else:
            text = str(error) if isinstance(error, CallFailedError) else repr(error)
            self.send(protocol.Outcome(number, error=text))


def _call_of(call: protocol.Call, delay: Any) -> Call:
    message = _parse(call.message_type, call.message)
    request = message if call.request is None else _parse(call.request_type, call.request)
    facts = Facts(
        call.method,
        call.listener,
        call.caller,
        call.metadata,
        None if call.request is None and call.phase == "response" else request,
        call.pod,
        call.container,
        call.image,
    )
    return Call(_parse(call.message_type, call.message), facts, delay)


def _parse(name: str, data: bytes) -> Message:
    return GetMessageClass(Default().FindMessageTypeByName(name)).FromString(data)


def main(descriptor: int) -> None:
    """Load the script that the worker names, and serve its calls."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    try:
        load = protocol.receive(channel, protocol.from_worker)
        script = Script(load.path, load.source)
    except ScriptError as error:
        channel.sendall(protocol.frame(protocol.LoadFailed(str(error))))
        return
    except EOFError:
        return
    runner = _Runner(channel, script)
    functions = script.functions
    runner.send(protocol.Loaded("request" in functions, "response" in functions, script.has_deny))
    asyncio.run(runner.serve())


if __name__ == "__main__":
    main(int(sys.argv[1]))
