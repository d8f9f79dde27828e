"""Runs the embedded runtime as a child process, so that it does not share this one's GIL."""

from criproxy.concurrency.command_process import CommandProcess
from criproxy.relay.endpoints import Endpoint


class RuntimeProcess(CommandProcess):
    """``criproxy runtime`` as a child process, from entering to leaving the ``with`` block.

    ``latency`` and ``pods`` are as on its command line. Raises UnavailableError on entering,
    with the process's stderr, when it does not start.
    """

    def __init__(self, endpoint: str | Endpoint, latency: str = "real", pods: int = 0) -> None:
        self.endpoint = str(endpoint)
        options = ("--listen", self.endpoint, "--latency", latency, "--pods", str(pods))
        super().__init__("runtime", *options)

    def start(self) -> None:
        """Start the process and return once it listens."""
        self._launch_until_serving("the embedded runtime")
