"""Runs one demo: starts runtime, proxy and client, reports their calls, and removes everything."""

import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from criproxy.client import CriClient
from criproxy.client.failures import ask_version
from criproxy.demo.proxy import ProxyProcess, json_lines
from criproxy.demo.rule_cases import CALL_SECONDS, RuleCases, settings
from criproxy.demo.screen import Screen
from criproxy.demo.summary import Counts, differences, rows
from criproxy.embedded.kubelet import LABEL, NAMESPACE, Kubelet, present_image
from criproxy.embedded.process import RuntimeProcess
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint, parse_endpoint

_VERSION_SECONDS: Final = 10.0
"""Deadline of the first Version call to a given runtime."""
_SETTLE_SECONDS: Final = 3.0
"""Time limit for the proxy's counts to reach the client's."""
_SETTLE_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """The command's options.

    ``runtime`` None is the embedded runtime; ``seconds`` is the client's working time. ``image``
    None is one that the runtime has; an empty ``command`` is the image's own.
    """

    runtime: Endpoint | None
    seconds: float
    image: str | None
    command: Sequence[str]
    api_version: str


class DemoScenario:
    """One demo: :meth:`run` runs it, :meth:`end` ends it early from any thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stop = threading.Event()
        self._screen = Screen(self._stop.set)
        self._proxy: ProxyProcess | None = None
        self._asked_to_end = 0
        self._counts: Counts = Counter()
        self._client_seconds: defaultdict[str, float] = defaultdict(float)  # seconds by method

    def end(self) -> None:
        """Wait for calls in flight and clean up; called again, cut the calls off."""
        self._asked_to_end += 1
        if self._asked_to_end == 1:
            self._screen.say("ending; once more cuts off the calls that do not return")
        elif self._proxy is not None:
            self._proxy.kill()
        self._stop.set()

    def run(self) -> None:
        """Run until the time is over, and clean up in any case.

        Raises EndpointError and UnavailableError when something is missing or could not be
        removed, or when the client's and the proxy's counts differ.
        """
        directory = Path(tempfile.mkdtemp(prefix="criproxy-demo-"))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory)
            runtime = self._runtime(directory, stack)
            listen = parse_endpoint(f"unix://{directory}/criproxy.sock")
            audit_log = directory / "audit.jsonl"
            image = self._options.image or self._present_image(runtime)
            proxy = self._proxy = ProxyProcess(
                directory, listen, runtime, settings(image, audit_log)
            )
            with proxy:
                self._introduce(proxy)
                self._work(proxy, image)
                differing = self._settle(proxy)
            self._conclude(proxy, differing, json_lines(audit_log))

    def _runtime(self, directory: Path, stack: ExitStack) -> Endpoint:
        if (given := self._options.runtime) is None:
            endpoint = parse_endpoint(f"unix://{directory}/runtime.sock")
            stack.enter_context(RuntimeProcess(endpoint))
            self._screen.say(f"runtime  {endpoint} (embedded: in memory, nothing is really run)")
            return endpoint
        answer = ask_version(given, self._options.api_version, _VERSION_SECONDS)
        self._screen.say(f"runtime  {given} ({answer.runtime_name} {answer.runtime_version})")
        return given

    def _present_image(self, runtime: Endpoint) -> str:
        """Return an image that the runtime has; it is asked directly."""
        try:
            with CriClient(runtime, self._options.api_version, CALL_SECONDS) as client:
                return present_image(client.call("ListImages"), runtime)
        except grpc.RpcError as error:
            raise UnavailableError(
                f"{runtime}: ListImages: {error.code().name}: {error.details()}"
            ) from error

    def _introduce(self, proxy: ProxyProcess) -> None:
        say = self._screen.say
        say(f"proxy    {proxy.endpoint}")
        say(f"         http://{proxy.metrics_address}/metrics and /calls, while this lasts")
        say(
            f"client   starts and stops pods in namespace {NAMESPACE} through the proxy, "
            f"{self._options.seconds:g} s (Ctrl-C ends it)"
        )

    def _work(self, proxy: ProxyProcess, image: str) -> None:
        """Run the client and remove what it has created, all of it through the proxy."""
        options = self._options
        embedded = options.runtime is None
        kubelet = Kubelet(
            proxy.endpoint,
            on_call=self._called,
            image=image,
            command=options.command,
            probe=("echo", "hello") if embedded else (),
            api_version=options.api_version,
        )
        if not embedded:
            self._screen.say(f"         what it makes bears the label {LABEL}={kubelet.run_id}")
        self._screen.say()
        self._screen.heading()
        with kubelet:
            kubelet.run(self._stop, options.seconds)
            if not self._stop.is_set():
                self._screen.say()
                self._screen.say("What rules do:", bold=True)
                cases = RuleCases(proxy, kubelet, self._screen, self._called, self._stop)
                cases.run(image, options.api_version)
                self._screen.say()
            self._screen.say("the client is done and removes what it has made")

    def _called(self, method: str, pod: str, code: str, seconds: float) -> None:
        self._counts[method, code] += 1
        self._client_seconds[method] += seconds
        self._screen.call(method, pod, code, seconds)

    def _settle(self, proxy: ProxyProcess) -> list[str]:
        """Return the differing counts of client and proxy, once equal or at the time limit."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            differing = differences(self._counts, proxy.counts())
            if not differing or time.monotonic() > deadline:
                return differing
            time.sleep(_SETTLE_POLL_SECONDS)

    def _conclude(
        self, proxy: ProxyProcess, differing: Sequence[str], records: Iterable[Mapping[str, Any]]
    ) -> None:
        say = self._screen.say
        say()
        say("What the proxy saw, by its call log:", bold=True)
        say()
        self._screen.table(rows(proxy.calls(), self._client_seconds))
        say()
        say("P50 to P99 are latencies at the proxy; ADDED is what the proxy itself added to a call")
        say("(median), SHARE its part of the time that the client waited.")
        say()
        self._show_records(records)
        total = self._counts.total()
        if not differing:
            say(
                f"The client made {total} calls; the proxy's metrics agree, by method and code.",
                fg="green",
            )
            return
        for line in differing:
            say(line, fg="red")
        raise UnavailableError(f"client and proxy counted {len(differing)} methods differently")

    def _show_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write the audit record of each call that a rule acted on, if there are some."""
        acted = [
            record
            for record in records
            if "rules" in record and record["stage"] == "ResponseComplete"
        ]
        if acted:
            self._screen.say("The audit log's records of the calls that rules acted on:", bold=True)
        for record in acted:
            self._screen.say()
            self._screen.record(record)
        if acted:
            self._screen.say()
