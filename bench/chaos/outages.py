"""Restarts the runtime behind criproxy, and counts calls that fail and changes sent twice."""

import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import grpc

from bench.chaos.load import DEADLINE, EndedCall, Load, describe
from bench.chaos.node import Node
from bench.chaos.report import Report, Verdict
from bench.chaos.sizes import Sizes
from criproxy.client import CriClient
from criproxy.cri.messages import MODULES
from tests.support.containerd import Containerd, missing
from tests.support.pods import Pods
from tests.support.waiting import wait_until

ANSWERS: Final = 20
"""Number of calls between two restarts of the recording runtime."""


class RecordingRuntime:
    """A runtime that counts what it is asked for, and that can be stopped in the middle of it."""

    def __init__(self, path: Path) -> None:
        self.asked: Counter[str] = Counter()
        """Number of times that each name of an image was to be pulled."""
        self._path = path
        self._lock = threading.Lock()
        self._server: Any = None
        v1 = MODULES["v1"]
        self._pulled = v1.PullImageResponse(image_ref="sha256:0").SerializeToString()
        self._version = v1.VersionResponse(version="0.1.0", runtime_name="recorder")
        self._request = v1.PullImageRequest

    def start(self) -> None:
        """Listen."""
        self._path.unlink(missing_ok=True)
        self._server = grpc.server(ThreadPoolExecutor(8))
        unary = grpc.unary_unary_rpc_method_handler
        runtime = {"Version": unary(self._answer_version)}
        images = {"PullImage": unary(self._pull)}
        for service, methods in (("RuntimeService", runtime), ("ImageService", images)):
            name = f"runtime.v1.{service}"
            handler = grpc.method_handlers_generic_handler(name, methods)
            self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{self._path}")
        self._server.start()

    def stop(self) -> None:
        """Cut every connection and call."""
        self._server.stop(0).wait()

    def _answer_version(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return bytes(self._version.SerializeToString())

    def _pull(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.asked[self._request.FromString(request).image.image] += 1
        time.sleep(0.002)  # so that a stop comes in the middle of some
        return bytes(self._pulled)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def outages(directory: Path, sizes: Sizes) -> Report:
    """The runtime is restarted: a real containerd where there is one, and one that records.

    Calls that are in flight at containerd's end fail, as they do without criproxy; connections that
    are made meanwhile wait. PullImage calls, each for another image, count as sent twice if the
    recording runtime was asked for one more than once.
    """
    rows: list[list[str]] = []
    verdicts: list[Verdict] = []
    for name, shield in (("", False), (", shielded", True)):
        place = directory / ("shielded" if shield else "plain")
        place.mkdir()
        if not missing():
            row = _containerd(place, shield, sizes.outages, verdicts)
            rows.append([row[0] + name, *row[1:]])
        row = _recorder(place, shield, sizes.outages, verdicts)
        rows.append([row[0] + name, *row[1:]])
    header = ["runtime", "restarts", "calls", "failed", "hung", "worst call", "sent twice"]
    about = (outages.__doc__ or "").replace("\n    ", "\n")
    return Report("outages", "Restarts of the runtime", about, header, rows, verdicts)


def _containerd(directory: Path, shield: bool, times: int, verdicts: list[Verdict]) -> list[str]:
    with ExitStack() as stack:
        runtime = stack.enter_context(Containerd(directory / "c"))
        runtime.import_image()
        pods = stack.enter_context(Pods(runtime))
        pods.start(pods.direct, pods.pod(pods.direct, "chaos"))
        node = stack.enter_context(Node(directory, runtime=runtime.endpoint, shield=shield))
        load = stack.enter_context(Load(node.endpoint, mutating=False))
        for _ in range(times):
            _more_calls(load)
            runtime.restart()
        _more_calls(load)
        record = load.record
    failures = describe(record.failures)
    how = "with shielding" if shield else "without shielding"
    verdicts += [
        Verdict(f"{how}, no call hangs over restarts", str(record.hung), not record.hung),
        Verdict(
            f"{how}, calls fail with UNAVAILABLE or with containerd's own error while it starts",
            f"{len(record.failures)}: {failures}",
            all(map(_is_expected, record.failures)),
        ),
    ]
    failed, worst = str(len(record.failures)), f"{record.worst:.1f} s"
    return ["containerd", str(times), str(load.completed()), failed, str(record.hung), worst, "-"]


def _recorder(directory: Path, shield: bool, times: int, verdicts: list[Verdict]) -> list[str]:
    directory = directory / "r"
    directory.mkdir()
    path = directory / "runtime.sock"
    stop = threading.Event()
    sent: list[str] = []
    codes: Counter[str] = Counter()

    def pull(endpoint: str) -> None:
        with CriClient(endpoint, timeout=DEADLINE) as client:
            while not stop.is_set():
                name = f"registry.example/{uuid.uuid4().hex}:1"
                try:
                    client.PullImage(image={"image": name})
                except grpc.RpcError as error:
                    codes[error.code().name] += 1
                sent.append(name)

    with (
        RecordingRuntime(path) as runtime,
        Node(directory, runtime=f"unix://{path}", shield=shield) as node,
    ):
        threads = [threading.Thread(target=pull, args=(node.endpoint,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(times):
            wanted = len(sent) + ANSWERS
            wait_until(lambda wanted=wanted: len(sent) >= wanted, "calls that end")
            runtime.stop()
            runtime.start()
        stop.set()
        for thread in threads:
            thread.join()
    twice = sum(count > 1 for count in runtime.asked.values())
    hung = codes["DEADLINE_EXCEEDED"]
    how = "with shielding" if shield else "without shielding"
    verdicts.append(Verdict(f"{how}, no change is sent twice", str(twice), not twice))
    failed = str(codes.total())
    return ["recording", str(times), str(len(sent)), failed, str(hung), "-", str(twice)]


def _is_expected(call: EndedCall) -> bool:
    return call.code == "UNAVAILABLE" or "server is not initialized yet" in call.details


def _more_calls(load: Load) -> None:
    wanted = load.completed() + ANSWERS
    wait_until(lambda: load.completed() >= wanted, "calls that end")
