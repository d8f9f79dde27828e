"""ExecSync, and the URLs of Exec, Attach and PortForward.

The URLs look like containerd's, but no streaming server listens there.
"""

import asyncio
import secrets
from typing import Final

import grpc

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.state.errors import CallError, invalid, unknown
from criproxy.embedded.state.objects import Container
from criproxy.embedded.state.programs import CommandError, execute
from criproxy.embedded.state.store import Store

STREAMING_SERVER: Final = "http://127.0.0.1:10010"


class ExecutionService:
    """The methods that run commands in containers or stream to them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def exec_sync(self, request: v1.ExecSyncRequest) -> v1.ExecSyncResponse:
        """Run a command and return its output; DEADLINE_EXCEEDED when it outlasts its timeout."""
        context = "failed to exec in container"
        try:
            container = self._running(request.container_id)
        except CallError as error:
            raise error.within(context) from None
        try:
            result = execute(request.cmd, container)
        except CommandError as error:
            raise unknown(
                f'{context}: failed to start exec "{secrets.token_hex(32)}": OCI runtime exec '
                f"failed: exec failed: {error}: unknown"
            ) from error
        if 0 < request.timeout < result.seconds:
            await asyncio.sleep(request.timeout)
            raise CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"{context}: timeout {request.timeout}s exceeded: context deadline exceeded",
            )
        await asyncio.sleep(result.seconds)
        return v1.ExecSyncResponse(
            stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code
        )

    def exec(self, request: v1.ExecRequest) -> v1.ExecResponse:
        """Return the URL of a streaming command in a running container."""
        self._running(request.container_id)
        if not (request.stdin or request.stdout or request.stderr):
            raise invalid("one of stdin, stdout, or stderr must be set")
        if request.tty and request.stderr:
            raise invalid("tty and stderr cannot both be true")
        return v1.ExecResponse(url=_url("exec"))

    def attach(self, request: v1.AttachRequest) -> v1.AttachResponse:
        """Return the URL that attaches to a running container's main process."""
        container = self._store.find_container(
            request.container_id, "failed to find container in store"
        )
        _require_running(container)
        if not (request.stdin or request.stdout or request.stderr):
            raise invalid("one of stdin, stdout, and stderr must be set")
        if request.tty and request.stderr:
            raise invalid("tty and stderr cannot both be true")
        return v1.AttachResponse(url=_url("attach"))

    def port_forward(self, request: v1.PortForwardRequest) -> v1.PortForwardResponse:
        """Return the URL of a stream to a running sandbox's ports."""
        sandbox = self._store.find_sandbox(
            request.pod_sandbox_id, f'failed to find sandbox "{request.pod_sandbox_id}"'
        )
        if not sandbox.ready:
            raise unknown("sandbox container is not running")
        return v1.PortForwardResponse(url=_url("portforward"))

    def reopen_container_log(
        self, request: v1.ReopenContainerLogRequest
    ) -> v1.ReopenContainerLogResponse:
        """Do nothing for a running container: no log is written."""
        id_ = request.container_id
        container = self._store.find_container(
            id_, f'an error occurred when try to find container "{id_}"'
        )
        if container.state != v1.CONTAINER_RUNNING:
            raise unknown("container is not running")
        return v1.ReopenContainerLogResponse()

    def _running(self, id_: str) -> Container:
        container = self._store.find_container(id_, f'failed to find container "{id_}" in store')
        _require_running(container)
        return container


def _require_running(container: Container) -> None:
    if container.state != v1.CONTAINER_RUNNING:
        raise unknown(f"container is in {container.state_name} state")


def _url(kind: str) -> str:
    return f"{STREAMING_SERVER}/{kind}/{secrets.token_urlsafe(6)}"
