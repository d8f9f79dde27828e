"""RuntimeHealth: what the log says about runtimes."""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.daemon.supervisor import health
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.unary import ProbeResult, Service

DOWN = ProbeResult("no answer within 5 s")


def runtime(version: str) -> ProbeResult:
    response = v1.VersionResponse(runtime_name="containerd", runtime_version=version)
    return ProbeResult(None, response.SerializeToString())


def logged(
    results: Sequence[ProbeResult], monkeypatch: pytest.MonkeyPatch, service: Service
) -> list[Any]:
    """What is logged of a series of probes: the problem, or the name and version."""
    left = iter(results)

    async def probe(*_: object) -> ProbeResult:
        return next(left)

    monkeypatch.setattr(health, "probe", probe)
    upstream = (Endpoint("/run/containerd.sock"), service)
    clock = count(step=10)
    with capture_logs() as lines:
        asked = health.RuntimeHealth(
            [upstream], 10, 5, structlog.get_logger(), lambda: next(clock), lambda up: None
        )
        for result in results:
            assert asyncio.run(asked.ask()) == (
                result.problem and f"{service.description} {upstream[0]}: {result.problem}"
            )
    return [each.get("error") or (each["runtime_name"], each["runtime_version"]) for each in lines]


def test_changes_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime is logged when it answers first, again, or as another version."""
    results = [runtime("1.7"), runtime("1.7"), runtime("2.1"), DOWN, DOWN, runtime("2.1")]
    old, new = ("containerd", "1.7"), ("containerd", "2.1")
    assert logged(results, monkeypatch, Service.RUNTIME) == [old, new, DOWN.problem, new]


def test_image_services_have_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image service is asked for something else, which is not read as a version."""
    results = [runtime("1.7"), runtime("2.1")]
    assert logged(results, monkeypatch, Service.IMAGE) == [("", "")]
