"""The spawner: forks the other processes, from memory that they all share.

It is forked from the supervisor after everything is imported and the heap is frozen, and before
any thread or event loop exists. It stays single-threaded, so it can be forked at any time, and it
does nothing else: it forks, and reports which of its children have ended.

Requests and reports are datagrams (SOCK_SEQPACKET). A request carries the descriptors of the new
process: first its control channel.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from criproxy.concurrency.process_messages import decode, encode, receive_with_descriptors

_LARGEST: Final = 64 << 10

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a terminal or a service manager sends to the whole group: the supervisor decides."""

Main = Callable[[Mapping[str, Any], list[int]], int]
"""Runs a process: gets the request's arguments and descriptors, and returns its exit status."""


Exited = Callable[[int], None]
"""Called with the exit status of a process, negative for a signal."""


def start_spawner(mains: Mapping[str, Main]) -> socket.socket:
    """Fork the spawner; return the socket for :class:`SpawnerClient`.

    ``mains`` has the function of each kind of process. What these need has to be imported before:
    also the supervisor shares its pages, and what the spawner imported on its own would fill the
    gaps in pages that it shares with the supervisor. It must be called before any thread or event
    loop exists.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _settle_memory()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _close_all_but(theirs.fileno())
            _Spawner(theirs, mains).run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    theirs.close()
    return ours


def _settle_memory() -> None:
    """Make the memory that is about to be shared small, and keep it from being written to."""
    gc.collect()
    gc.freeze()  # a collection would write to the pages that are shared
    with contextlib.suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)  # what loading has left free: up to 2 MiB


def name_process(name: str) -> None:
    """Set the name of this process for ps(1) and top(1), at most 15 bytes (proc(5), comm)."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(name[:15])


def _close_all_but(kept: int) -> None:
    """Close what was inherited: each process is given just the descriptors that it needs."""
    for name in os.listdir("/proc/self/fd"):
        if (descriptor := int(name)) > 2 and descriptor != kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class SpawnerClient:
    """The supervisor's end, on its event loop."""

    def __init__(
        self,
        sock: socket.socket,
        lost: Callable[[], None],
    ) -> None:
        """``lost`` is called when the spawner has died."""
        sock.setblocking(False)
        self._sock = sock
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._waiting: dict[int, tuple[asyncio.Future[int], Exited]] = {}
        self._running: dict[int, Exited] = {}
        self._loop.add_reader(sock.fileno(), self._read)

    async def spawn(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        descriptors: Sequence[int],
        exited: Exited,
    ) -> int:
        """Fork a process and return its id. Raises OSError where that is not possible.

        ``exited`` is called once when the process has ended, which may be before this returns.
        """
        self._next += 1
        request = encode({"id": self._next, "kind": kind, "arguments": dict(arguments)})
        answer: asyncio.Future[int] = self._loop.create_future()
        self._waiting[self._next] = answer, exited
        socket.send_fds(self._sock, [request], list(descriptors))
        return await answer

    def close(self) -> None:
        """Let the spawner end. Processes that it has forked go on."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            for answer, _ in self._waiting.values():
                answer.set_exception(OSError("the spawner has ended"))
            self._waiting.clear()
            self._lost()
            return
        report = decode(data)
        if "exited" in report:
            self._running.pop(report["exited"])(report["status"])
            return
        answer, exited = self._waiting.pop(report["id"])
        if "error" in report:
            answer.set_exception(OSError(report["error"]))
        else:
            self._running[report["pid"]] = exited
            answer.set_result(report["pid"])


class _Spawner:
    def __init__(self, sock: socket.socket, mains: Mapping[str, Main]) -> None:
        self._sock = sock
        self._mains = mains

    def run(self) -> None:
        """Serve requests until the supervisor closes its end, or dies."""
        name_process("criproxy:spawn")
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(reader, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(reader, 4096)
                    self._reap()
                elif not self._serve(reader, writer):
                    return

    def _serve(self, *own: int) -> bool:
        try:
            data, descriptors = receive_with_descriptors(self._sock, _LARGEST)
        except ConnectionResetError:  # the supervisor was killed with reports unread
            return False
        if not data:
            return False
        request = decode(data)
        try:
            pid = os.fork()
        except OSError as error:
            self._report({"id": request["id"], "error": error.strerror or str(error)})
        else:
            if pid == 0:
                self._become(request, descriptors, own)
            self._report({"id": request["id"], "pid": pid})
        for each in descriptors:
            os.close(each)
        return True

    def _become(
        self, request: dict[str, Any], descriptors: list[int], own: tuple[int, ...]
    ) -> None:
        """Run a child's function. Never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._sock.close()
            for each in own:
                os.close(each)
            name_process(f"criproxy:{request['arguments']['name']}")
            status = self._mains[request["kind"]](request["arguments"], descriptors)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._report({"exited": pid, "status": os.waitstatus_to_exitcode(status)})

    def _report(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody is left to be told
            self._sock.send(encode(message))
