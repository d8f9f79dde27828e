"""Errors of calls: gRPC codes and texts as containerd's.

Most of containerd's errors have no gRPC code and reach the client as UNKNOWN; only a failed lookup
is NOT_FOUND. (Observed on containerd 1.6.)
"""

import grpc


class CallError(Exception):
    """A failed call, with the gRPC ``code`` and ``details`` that the client receives."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details

    def within(self, context: str) -> "CallError":
        """Return the same error with ``context: `` before its text, as Go wraps errors."""
        return CallError(self.code, f"{context}: {self.details}")


def not_found(details: str) -> CallError:
    """Return an error for a failed lookup."""
    return CallError(grpc.StatusCode.NOT_FOUND, details)


def unknown(details: str) -> CallError:
    """Return an error for which containerd has no code: wrong states, taken names."""
    return CallError(grpc.StatusCode.UNKNOWN, details)


def invalid(details: str) -> CallError:
    """Return an error for an invalid argument."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, details)
