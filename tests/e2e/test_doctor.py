"""The doctor's findings on a real containerd, its shims and their clients."""

import os
import socket

import pytest

from criproxy.config.load import parse
from criproxy.doctor.checks import connections, sockets
from criproxy.doctor.findings import Outcome
from criproxy.doctor.node.facts import gather
from criproxy.doctor.node.runtimes import SHIMS, shim_sockets
from criproxy.doctor.node.system import System
from criproxy.relay.endpoints import parse_endpoint
from tests.support.containerd import Containerd
from tests.support.pods import Pods

pytestmark = pytest.mark.e2e


def test_shims(runtime: Containerd) -> None:
    """The sockets of real shims are found, with who besides containerd is connected to them."""
    endpoint = parse_endpoint(runtime.endpoint)
    config = parse(f"listeners: [{{runtime: {endpoint}}}]", "test")
    with Pods(runtime, "v1") as pods:
        pod = pods.pod(pods.direct, "web")
        bundle = runtime.directory / "state/io.containerd.runtime.v2.task/k8s.io" / pod
        shim = (bundle / "address").read_text().removeprefix("unix://")
        assert shim in shim_sockets(System())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(shim)
            facts = gather(System(), config, [endpoint])
        named = [each for each in connections.check(facts) if f"({SHIMS})" in each.what]
        [ours] = [each for each in named if f"pid {os.getpid()}," in each.what]
        assert ours.outcome is Outcome.WARN
        assert facts.other_clients[SHIMS][runtime.process.pid] > 0
        assert not [each for each in named if f"pid {runtime.process.pid}," in each.what]
        closed = [each for each in sockets.check(facts) if "shims' sockets let root" in each.what]
        assert [each.outcome for each in closed] == [Outcome.OK]
