"""What a process of the daemon tells the supervisor over its control channel.

The messages are::

    ready      what was configured is in force
    failed     it is not, because of ``error``; ``usage``: the configuration is to blame
    metrics    the counters, as a snapshot of metrics
    error      ``trouble`` for the log
    lost       the ``count`` of what could not be written at the end, within ``waited_s`` seconds
"""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from criproxy.concurrency.process_messages import ControlSocket
from criproxy.concurrency.wake_up import WakeUp
from criproxy.errors import CriproxyError, UsageError

Counts = TypeVar("Counts")


class ProcessReports(Generic[Counts]):
    """Reports to the supervisor. Used by one thread, except ``log_error``.

    It is a file object for a selector, readable when :meth:`send_errors` has something to send.
    """

    def __init__(self, control: ControlSocket, describe: Callable[[Counts], Any]) -> None:
        """``describe`` returns counters as data that MessagePack can encode."""
        self._control = control
        self._describe = describe
        self._reported: Any = None
        self._errors: SimpleQueue[str] = SimpleQueue()
        self._wake_up = WakeUp()

    def fileno(self) -> int:
        """Return the descriptor for the selector."""
        return self._wake_up.fileno()

    def configured(self, configure: Callable[[], None]) -> None:
        """Configure the process, and report whether it did. A CriproxyError means that not."""
        try:
            configure()
        except CriproxyError as error:
            usage = isinstance(error, UsageError)
            self._control.send({"op": "failed", "error": str(error), "usage": usage})
        else:
            self._control.send({"op": "ready"})

    def log_error(self, trouble: str) -> None:
        """Have an error logged. Thread-safe, also for a thread that is left behind at the end."""
        self._errors.put(trouble)
        self._wake_up.wake()

    def send_errors(self) -> None:
        """Send the errors that wait."""
        self._wake_up.clear()
        with suppress(Empty):
            while True:
                self._control.send({"op": "error", "trouble": self._errors.get_nowait()})

    def send_counts(self, counts: Counts) -> None:
        """Send the counters, unless they are as they were sent last."""
        described = self._describe(counts)
        if described != self._reported:
            self._reported = described
            self._control.send({"op": "metrics", "snapshot": described})

    def close(self, counts: Counts, lost: int, waited: float) -> None:
        """Send what waits, the last counters and how much was lost after ``waited`` seconds."""
        with suppress(OSError):
            self.send_errors()
            self.send_counts(counts)
            if lost:
                self._control.send({"op": "lost", "count": lost, "waited_s": waited})
        self._wake_up.close()
