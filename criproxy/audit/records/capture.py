"""Decides which messages of a call are captured for its record."""

from functools import lru_cache
from typing import Final

from criproxy.audit.policy import covers
from criproxy.audit.records.subject import has_exit_code, has_subject
from criproxy.audit.spec import Level
from criproxy.cri.naming import MethodName
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.reading.message_capture import CaptureLimits

SUBJECT_BYTES: Final = 64 << 10
"""Bytes of a message that are captured for the subject's names or an exit code, where fewer are
recorded."""

_NEW_ID_BYTES: Final = 16 << 10
"""Bytes of a response that are captured for the new ids in it."""

_CACHE_SIZE: Final = 1024
"""Cached capture limits of methods at levels."""


def decode_limit(message_limit: int) -> int:
    """Return how many bytes of a direction's messages are decoded for what a policy looks at."""
    return max(message_limit, SUBJECT_BYTES)


def subject_limits(method_name: MethodName, updates_pod_cache: bool) -> CaptureLimits | None:
    """Return what is captured of a method's calls to know their subject; None: nothing."""
    if updates_pod_cache:
        return CaptureLimits(SUBJECT_BYTES, _NEW_ID_BYTES)
    return CaptureLimits(SUBJECT_BYTES, 0) if has_subject(method_name) else None


class CaptureSelector:
    """Returns the capture limits of calls."""

    def __init__(self, message_limit: int) -> None:
        """``message_limit`` is in bytes of the recorded messages of one direction."""
        self._limit = message_limit
        self._decode_limit = decode_limit(message_limit)
        self._updates_pod_cache = PodCache().wants
        self.limits = lru_cache(_CACHE_SIZE)(self._limits)
        """Returns the limits for a method, given the highest level at which its calls may be
        recorded: ``limits(method_name, max_level) -> CaptureLimits``."""

    def _limits(self, method_name: MethodName, max_level: Level) -> CaptureLimits:
        request = response = 0
        path = f"/{method_name.service}/{method_name.method}".encode(errors="replace")
        if self._updates_pod_cache(path):
            request, response = self._decode_limit, _NEW_ID_BYTES
        if covers(max_level, "Request"):
            request = max(request, self._limit)
        if max_level != "None" and has_subject(method_name):
            request = max(request, self._decode_limit)
        if max_level == "RequestResponse":
            response = max(response, self._limit)
        if max_level != "None" and has_exit_code(method_name):
            response = max(response, self._decode_limit)
        return CaptureLimits(request, response)
