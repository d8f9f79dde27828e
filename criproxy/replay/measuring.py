"""Measures calls to a runtime in the way in which recorded calls were measured.

A client of ours takes longer than its runtime: what it measures cannot be compared with a
recording. So ``criproxy record`` is put between the two, as it was then.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from criproxy.cassette.call_index import CallIndex
from criproxy.cassette.reader import CassetteReader
from criproxy.concurrency.command_process import CommandProcess
from criproxy.relay.endpoints import Endpoint, parse_endpoint


class MeasuringRelay(CommandProcess):
    """``criproxy record`` in front of a runtime, from entering to leaving the block.

    Raises UnavailableError on entering, with its stderr, when it does not start.
    """

    def __init__(self, runtime: Endpoint) -> None:
        self._directory = TemporaryDirectory(prefix="criproxy-")
        directory = Path(self._directory.name)
        self.endpoint = parse_endpoint(f"unix://{directory}/relay.sock")
        self._file = directory / "measured.cassette"
        options = ("--listen", str(self.endpoint), "--runtime-endpoint", str(runtime))
        super().__init__("record", *options, str(self._file))

    def start(self) -> None:
        """Start the process and return once it listens."""
        self._launch_until_serving("the relay that measures")

    def __exit__(self, *_: object) -> None:
        super().__exit__(*_)
        self._directory.cleanup()

    def durations(self) -> Mapping[str, Sequence[float]]:
        """Stop the process; return how long the calls of each method took, in seconds."""
        self.stop()
        found: defaultdict[str, list[float]] = defaultdict(list)
        with CassetteReader(self._file) as reader:
            for call in CallIndex(reader).calls:
                if call.method is not None and call.end is not None:
                    found[call.method.name].append(call.seconds)
        return found
