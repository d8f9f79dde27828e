"""A CRI client that records its calls and their answers for comparison."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from criproxy.client import CriClient
from tests.e2e.normal import Plain, normalise, rename
from tests.support.criproxy import CallKey
from tests.support.waiting import LIMIT_SECONDS


@dataclass(frozen=True)
class Made:
    """One call as its client saw it; ``answer`` is the message, or the error's details."""

    service: str
    method: str
    code: str
    answer: Message | str


class Recorder:
    """A client of one API version at one endpoint, a context manager."""

    def __init__(self, endpoint: str, version: str) -> None:
        self.client = CriClient(endpoint, version, timeout=LIMIT_SECONDS)
        self.messages: Any = self.client.messages
        self.made: list[Made] = []
        self._names: dict[str, str] = {}

    def call(self, method: str, *, deadline: float | None = None, **fields: Any) -> Any:
        """Call ``method`` with the request's fields; return the response, None after an error.

        ``deadline`` is in seconds. Either way the call is recorded.
        """
        service = self.client.method(method).service
        try:
            response = self.client.call(method, deadline=deadline, **fields)
        except grpc.RpcError as error:
            self.made.append(Made(service, method, error.code().name, error.details() or ""))
            return None
        self.made.append(Made(service, method, "OK", response))
        return response

    def name(self, given: str, name: str) -> str:
        """Let ``name`` stand for an id that the runtime gave, and return the id."""
        self._names[given] = name
        return given

    def env_value(self, text: str) -> str | bytes:
        """An environment variable's value: bytes in v1, a string in v1alpha2."""
        return text.encode() if isinstance(self.messages.KeyValue().value, bytes) else text

    def transcript(self) -> list[tuple[str, str, str, Plain | str]]:
        """Every call so far, in order, in a form that does not depend on the run."""
        return [(m.service, m.method, m.code, self._plain(m.answer)) for m in self.made]

    def counts(self) -> Counter[CallKey]:
        """How many calls there were of each service, method and code."""
        return Counter((m.service, m.method, m.code) for m in self.made)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def _plain(self, answer: Message | str) -> Plain | str:
        if isinstance(answer, str):
            return rename(answer, self._names)
        return normalise(answer, self._names)
