"""The fields of a line about a call that name its pod, container and image."""

from collections.abc import Callable, Mapping

from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call

SubjectFields = Callable[[Connection, Call], Mapping[str, str]]
"""Returns some of ``namespace``, ``pod``, ``pod_uid``, ``pod_id``, ``container``, ``container_id``
and ``image`` for a call, which may be in flight."""


def names_nothing(connection: Connection, call: Call) -> Mapping[str, str]:
    """Return no fields: the subjects of calls are not known."""
    return {}
