"""The embedded runtime's state: one store behind both API versions.

It finds objects by id or by a prefix of it, keeps names unique, and counts its changes in
``generation``, by which caches are invalidated.
"""

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.state import views
from criproxy.embedded.state.errors import not_found, unknown
from criproxy.embedded.state.events import EventHub
from criproxy.embedded.state.objects import Container, Image, Sandbox

FIRST_PID: Final = 1000
ADDRESSES: Final = 1 << 16
"""Size of 10.88.0.0/16, whose addresses sandboxes receive in turn."""

T = TypeVar("T")


class Store:
    """Sandboxes, containers and images, by id and in order of creation."""

    def __init__(self) -> None:
        self.sandboxes: dict[str, Sandbox] = {}
        self.containers: dict[str, Container] = {}
        self.images: dict[str, Image] = {}
        self.events = EventHub()
        self.pod_cidr = ""
        self.generation = 0
        self._names: dict[str, str] = {}
        self._pids = FIRST_PID
        self._addresses = 1

    def find_sandbox(self, id_: str, context: str) -> Sandbox:
        """Return a sandbox by its id or a prefix of it.

        Raises CallError, whose text begins with ``context``, when there is none or more than one.
        """
        return _find(self.sandboxes, id_, context)

    def find_container(self, id_: str, context: str) -> Container:
        """Return a container by its id or a prefix of it; raises as ``find_sandbox``."""
        return _find(self.containers, id_, context)

    def add_sandbox(self, config: v1.PodSandboxConfig, runtime_handler: str) -> Sandbox:
        """Create a ready sandbox. Raises CallError when its name is taken."""
        sandbox = Sandbox(
            id=secrets.token_hex(32),
            config=config,
            runtime_handler=runtime_handler,
            created_at=time.time_ns(),
            pid=self._next_pid(),
            ip="" if _on_host_network(config) else self._next_address(),
        )
        self._reserve("sandbox", sandbox.name, sandbox.id)
        self.sandboxes[sandbox.id] = sandbox
        self.changed(v1.CONTAINER_CREATED_EVENT, sandbox.id, sandbox)
        self.changed(v1.CONTAINER_STARTED_EVENT, sandbox.id, sandbox)
        return sandbox

    def add_container(
        self, sandbox: Sandbox, config: v1.ContainerConfig, image: Image, log_path: str
    ) -> Container:
        """Create a container. Raises CallError when its name is taken."""
        container = Container(
            id=secrets.token_hex(32),
            sandbox=sandbox,
            config=config,
            image_id=image.id,
            log_path=log_path,
            created_at=time.time_ns(),
            resources=v1.LinuxContainerResources(),
        )
        container.resources.CopyFrom(config.linux.resources)
        self._reserve("container", container.name, container.id)
        self.containers[container.id] = sandbox.containers[container.id] = container
        self.changed(v1.CONTAINER_CREATED_EVENT, container.id, sandbox)
        return container

    def start(self, container: Container) -> None:
        """Mark a created container as running."""
        container.state = v1.CONTAINER_RUNNING
        container.pid = self._next_pid()
        container.started_at = time.time_ns()
        self.changed(v1.CONTAINER_STARTED_EVENT, container.id, container.sandbox)

    def exit(self, container: Container, code: int, reason: str = "", message: str = "") -> None:
        """Mark a container as exited; the default ``reason`` is containerd's for the code."""
        container.state = v1.CONTAINER_EXITED
        container.pid = 0
        container.finished_at = time.time_ns()
        container.exit_code = code
        container.reason = reason or ("Error" if code else "Completed")
        container.message = message
        container.exited.set()
        self.changed(v1.CONTAINER_STOPPED_EVENT, container.id, container.sandbox)

    def stop(self, sandbox: Sandbox) -> None:
        """Mark a sandbox as not ready and release its address."""
        sandbox.ready, sandbox.pid, sandbox.ip = False, 0, ""
        self.changed(v1.CONTAINER_STOPPED_EVENT, sandbox.id, sandbox)

    def remove_container(self, container: Container) -> None:
        """Remove a container."""
        del self.containers[container.id], container.sandbox.containers[container.id]
        del self._names[container.name]
        self.changed(v1.CONTAINER_DELETED_EVENT, container.id, container.sandbox)

    def remove_sandbox(self, sandbox: Sandbox) -> None:
        """Remove a sandbox."""
        del self.sandboxes[sandbox.id]
        del self._names[sandbox.name]
        self.changed(v1.CONTAINER_DELETED_EVENT, sandbox.id, sandbox)

    def touch(self) -> None:
        """Count a change that publishes no event."""
        self.generation += 1

    def changed(self, kind: v1.ContainerEventType, id_: str, sandbox: Sandbox) -> None:
        """Count a change and publish it as an event of the sandbox or a container in it."""
        self.touch()
        self.events.publish(
            kind,
            id_,
            lambda: (
                views.sandbox_status(sandbox),
                [self.status(container) for container in sandbox.containers.values()],
            ),
        )

    def status(self, container: Container) -> v1.ContainerStatus:
        """Return a container's status message."""
        return views.container_status(container, self.images.get(container.image_id))

    def _reserve(self, what: str, name: str, id_: str) -> None:
        if owner := self._names.get(name):
            raise unknown(
                f'failed to reserve {what} name "{name}": name "{name}" is reserved for "{owner}"'
            )
        self._names[name] = id_

    def _next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def _next_address(self) -> str:
        self._addresses = self._addresses % (ADDRESSES - 2) + 1
        return f"10.88.{self._addresses >> 8}.{self._addresses & 0xFF}"


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether labels match a selector."""
    return all(labels.get(key) == value for key, value in wanted.items())


def with_prefix(items: Iterable[tuple[str, T]], prefix: str) -> list[T]:
    """Return the values whose id begins with ``prefix``; all of them for an empty one."""
    return [value for id_, value in items if id_.startswith(prefix)]


def _find(items: Mapping[str, T], id_: str, context: str) -> T:
    if id_ in items:
        return items[id_]
    if not id_:
        raise unknown("Prefix can't be empty").within(context)
    found = with_prefix(items.items(), id_)
    if not found:
        raise not_found("not found").within(context)
    if len(found) > 1:
        raise unknown(f"multiple IDs found with provided prefix: {id_}").within(context)
    return found[0]


def _on_host_network(config: v1.PodSandboxConfig) -> bool:
    return config.linux.security_context.namespace_options.network == v1.NODE
