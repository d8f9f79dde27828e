"""The checks of an installation: the proxy answers as the runtime, and the kubelet uses it."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import grpc

from criproxy.client import CriClient
from criproxy.client.failures import OTHER_VERSION, ask_version
from criproxy.common.printable import printable
from criproxy.config.schema import Config
from criproxy.doctor.node.facts import gather
from criproxy.doctor.node.system import System
from criproxy.errors import CriproxyError, UnavailableError
from criproxy.relay.endpoints import Endpoint

_CALL_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.2
_COMPARED: Final = ("Version", "Status", "ListPodSandbox")
"""The calls whose answers have to be the same through the proxy as from the runtime."""

_PARENTS: Final = 32
"""Generations of processes that are looked through."""


def prove(endpoint: Endpoint, runtime: Endpoint, seconds: float) -> None:
    """Compare the answers of the proxy with the runtime's, for ``seconds`` at most.

    Pods may start meanwhile, so they are compared again until they are the same. Raises
    UnavailableError.
    """
    version = _version_of(runtime)
    _await(lambda: ask_version(endpoint, version, _CALL_SECONDS), seconds)
    with CriClient(endpoint, version) as proxied, CriClient(runtime, version) as direct:
        for name in _COMPARED:
            _await(lambda name=name: _compare(name, proxied, direct), seconds)  # type: ignore[misc]


def healthy(url: str, seconds: float, unit: str) -> None:
    """Wait until a kubelet's healthz answers 200. Raises UnavailableError after ``seconds``."""
    opener = build_opener(ProxyHandler({}))

    def ask() -> None:
        try:
            with opener.open(url, timeout=_CALL_SECONDS):
                return
        except HTTPError as error:
            why = f"it answers {error.code}"
        except (OSError, HTTPException, ValueError) as error:  # the URL's port is the kubelet's
            why = printable(str(getattr(error, "reason", error)).strip())
        raise UnavailableError(
            f"the kubelet is not healthy at {url} ({why}); see: journalctl -u {unit}"
        )

    _await(ask, seconds)


def connected(endpoint: Endpoint, main_pid: Callable[[], int], seconds: float, unit: str) -> None:
    """Wait until a process of a service is connected to the proxy.

    ``main_pid`` returns the service's main process. Raises UnavailableError after ``seconds``.
    """

    def look() -> None:
        facts = gather(System(), Config(), [endpoint])
        if facts.sockets_error:
            raise UnavailableError(facts.sockets_error)
        pid = main_pid()
        if not pid:
            raise UnavailableError(f"{unit} does not run; see: journalctl -u {unit}")
        clients = facts.clients.get(endpoint.path, Counter())
        if not any(_descends(facts.system, each, pid) for each in clients):
            raise UnavailableError(
                f"the kubelet ({unit}, pid {pid}) does not connect to {endpoint}"
            )

    _await(look, seconds)


def agrees(
    runtime: Endpoint, others: Sequence[Endpoint], main_pid: Callable[[], int], unit: str
) -> None:
    """Check that a kubelet that runs is connected to the runtime that its files name.

    It may have been started with other files. One that is connected to none may just be starting.
    Raises UnavailableError if it is connected to one of the ``others`` instead.
    """
    pid = main_pid()
    facts = gather(System(), Config(), [runtime, *others])
    found = {
        path
        for path, clients in facts.clients.items()
        if any(_descends(facts.system, each, pid) for each in clients)
    }
    if pid and found and runtime.path not in found:
        raise UnavailableError(
            f"the kubelet (pid {pid}) runs with {' and '.join(sorted(found))}, and its files point "
            f"it at {runtime}; correct them or restart {unit}, and run it again"
        )


def _descends(system: System, pid: int, ancestor: int) -> bool:
    for _ in range(_PARENTS):
        if pid == ancestor:
            return True
        parent = system.status(pid).get("PPid", "0")
        pid = int(parent) if parent.isdecimal() else 0
    return False


def _version_of(runtime: Endpoint) -> str:
    """Return the version of the CRI that a runtime speaks. Raises UnavailableError."""
    try:
        ask_version(runtime, "v1", _CALL_SECONDS)
    except UnavailableError:
        ask_version(runtime, OTHER_VERSION["v1"], _CALL_SECONDS)
        return OTHER_VERSION["v1"]
    return "v1"


def _compare(name: str, proxied: CriClient, direct: CriClient) -> None:
    """Call a method before, through and after the proxy: what is stable has to be the same."""
    try:
        before, found, after = (_answer(each, name) for each in (direct, proxied, direct))
    except grpc.RpcError as error:
        raise UnavailableError(
            f"{name} through {proxied.endpoint} or at {direct.endpoint} failed: "
            f"{error.code().name}: {error.details()}"
        ) from None
    if found not in (before, after):
        raise UnavailableError(
            f"{name} through {proxied.endpoint} is not what {direct.endpoint} answers"
        )


def _answer(client: CriClient, name: str) -> Any:
    answer = client.call(name)
    if name == "ListPodSandbox":  # in any order
        return sorted(each.SerializeToString(deterministic=True) for each in answer.items)
    return answer


def _await(check: Callable[[], object], seconds: float) -> None:
    """Call ``check`` until it raises nothing; raise its last error after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            check()
        except CriproxyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds."""

    proxy: float = 60.0
    kubelet: float = 120.0
