"""Asking the runtimes for the pods and containers that were there before the proxy was."""

import asyncio
from typing import Final, Protocol

from criproxy.observe.log import Log
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.unary import call
from criproxy.rules.errors import EvaluationError
from criproxy.wire.grpc import StatusCode

_AGAIN: Final = 2.0
"""Seconds until a runtime that does not answer is asked again."""

_PATIENCE: Final = 60.0
"""Seconds that a runtime may take to list what it has."""


class Learner(Protocol):
    """What is to learn of pods: criproxy.rules.pod_cache's Memory, or who passes it on to one."""

    def listed(self, pods: bytes, containers: bytes) -> None:
        """Learn from the responses of ListPodSandbox and ListContainers.

        Raises EvaluationError where they cannot be decoded.
        """


async def list_pods(runtime: Endpoint, memory: Learner, log: Log) -> None:
    """Let ``memory`` learn of all that a runtime has; asks until there is an answer."""
    wrong = ""
    while True:
        try:
            async with asyncio.timeout(_PATIENCE):
                pods = await _list(runtime, "ListPodSandbox")
                containers = await _list(runtime, "ListContainers")
            memory.listed(pods, containers)
        except (OSError, EvaluationError) as error:
            if str(error) != wrong:
                wrong = str(error)
                log.warning(
                    "pods not listed yet",
                    runtime=str(runtime),
                    error=wrong,
                    note="until then the pods of before are unknown by their names",
                )
            await asyncio.sleep(_AGAIN)
        else:
            log.info("pods listed", runtime=str(runtime))
            return


async def _list(runtime: Endpoint, method: str) -> bytes:
    """Return the response to an empty request. Raises OSError where there is none."""
    for version in ("v1", "v1alpha2"):
        path = f"/runtime.{version}.RuntimeService/{method}"
        answer = await call(runtime, path.encode(), b"")
        if answer.code is not StatusCode.UNIMPLEMENTED:
            break
    if answer.code is not StatusCode.OK:
        code = "an unreadable answer" if answer.code is None else answer.code.name
        raise ConnectionError(f"{method} failed with {code}: {answer.message}")
    return answer.response
