"""Starts backends and contenders as processes, waits until they answer, and stops them."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import version
from bench.contenders import Contender, Setup
from bench.load import Call, Connection
from bench.wire import LoadError
from criproxy.cri.pb.runtime_v1_pb2 import VersionRequest
from tests.support.containerd import Containerd, missing
from tests.support.process import Process
from tests.support.waiting import wait_until

READY_SECONDS = 20.0
TERM_SECONDS = 10.0
PODS = 1140
"""Number of pods with which the embedded runtime's ListContainers response is about 1 MiB."""

VERSION = Call(version.PATH, VersionRequest(version=version.KUBELET).SerializeToString())
LIST = Call("/runtime.v1.RuntimeService/ListContainers")


class NotRunningError(Exception):
    """A process could not be started; the text is the reason in one line."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A runtime that answers at ``socket``, its description, and the call to make."""

    name: str
    socket: Path
    call: Call


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that answers at ``socket``; ``process`` is None for the backend itself.

    ``call`` is the backend's, with the response expected through this contender.
    """

    name: str
    socket: Path
    directory: Path
    process: Process | None
    call: Call

    @property
    def pid(self) -> int | None:
        """The process id of the contender's first process."""
        return self.process.pid if self.process else None


@contextmanager
def work_directory() -> Iterator[Path]:
    """Create a temporary directory with a name short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="crpb", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def containerd(directory: Path) -> Iterator[Backend]:
    """Run a private containerd. Raises NotRunningError where it cannot run."""
    if lacks := missing():
        raise NotRunningError(f"containerd cannot run here: {', '.join(lacks)} missing")
    directory.mkdir()
    with Containerd(directory) as runtime:
        program = subprocess.run(["containerd", "--version"], capture_output=True, text=True)
        yield _backend(f"containerd {program.stdout.split()[2]}", runtime.address, VERSION)


@contextmanager
def embedded(directory: Path, call: Call) -> Iterator[Backend]:
    """Run the embedded runtime without latency; ``call`` is the backend's call."""
    directory.mkdir()
    socket = directory / "runtime.sock"
    argv = [sys.executable, "-m", "criproxy", "runtime", "--listen", f"unix://{socket}"]
    argv += ["--latency", "none", "--pods", str(PODS)]
    process = Process(argv, output=directory / "runtime")
    with _started(process, socket, "the embedded runtime", VERSION):
        yield _backend("criproxy's embedded runtime", socket, call)


@contextmanager
def contender(which: Contender, directory: Path, backend: Backend) -> Iterator[Running]:
    """Run a contender in front of ``backend``. Raises NotRunningError with the reason."""
    program = which.program()
    if program is None:
        raise NotRunningError(f"not installed: {which.install}")
    directory.mkdir()
    setup = Setup(directory, directory / "listen.sock", backend.socket)
    process = Process([program, *which.arguments(setup)], output=directory / "output")
    with _started(process, setup.listen, which.name, which.expected(VERSION)):
        yield Running(which.name, setup.listen, directory, process, which.expected(backend.call))


def _backend(name: str, socket: Path, call: Call) -> Backend:
    try:
        with Connection(socket) as connection:
            answer = connection.ask(call)
    except LoadError as error:
        raise NotRunningError(f"{name} does not answer: {error}") from error
    return Backend(name, socket, replace(call, answer=answer))


@contextmanager
def _started(process: Process, socket: Path, name: str, call: Call) -> Iterator[None]:
    process.start()
    try:
        _wait(process, socket, name, call)
        yield
    finally:
        try:
            process.stop(TERM_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name} did not end in {TERM_SECONDS:g} s and was killed", file=sys.stderr)


def _wait(process: Process, socket: Path, name: str, call: Call) -> None:
    def answers() -> bool:
        if not process.running:
            words = (process.stderr or process.stdout).strip().splitlines()
            raise NotRunningError(f"did not start: {words[-1] if words else process.returncode}")
        try:
            with Connection(socket) as connection:
                connection.ask(call)
        except LoadError:  # it listens, and does not reach the runtime yet
            return False
        return True

    try:
        wait_until(answers, name, limit=READY_SECONDS)
    except TimeoutError:
        raise NotRunningError(f"did not answer within {READY_SECONDS:g} s") from None
