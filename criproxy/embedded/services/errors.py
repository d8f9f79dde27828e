"""How a call to the embedded runtime fails: a gRPC code and a text, both as containerd gives them.

Most of containerd's errors carry no code of their own and reach the client as UNKNOWN, a wrong
state among them; only what is looked up and missing is NOT_FOUND. (Observed on containerd 1.6.)
"""

import grpc


class CallError(Exception):
    """A failed call: ``code`` and ``details`` are what the client gets."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details

    def within(self, context: str) -> "CallError":
        """Return the same fault with ``context: `` before its text, as Go wraps errors."""
        return CallError(self.code, f"{context}: {self.details}")


def not_found(details: str) -> CallError:
    """Return a fault for something that is not there."""
    return CallError(grpc.StatusCode.NOT_FOUND, details)


def unknown(details: str) -> CallError:
    """Return a fault of the kind that containerd gives no code: wrong states, taken names."""
    return CallError(grpc.StatusCode.UNKNOWN, details)


def invalid(details: str) -> CallError:
    """Return a fault for an argument that containerd itself calls invalid."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, details)
