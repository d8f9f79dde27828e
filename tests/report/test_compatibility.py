"""The compatibility report: what a runtime and its clients do not have in common."""

from pathlib import Path
from typing import Any

import pytest

from criproxy.report.computing.compatibility import GIVEN_UP, compatibility_of
from criproxy.report.figures import Compatibility, Feature
from tests.report.made import OLD, Line, call, record
from tests.report.tables import table_of, write


def report(directory: Path, lines: list[Line]) -> Compatibility:
    path = write(directory / "criproxy.jsonl", lines)
    with table_of(path) as table:
        return compatibility_of(table, [path])


def feature(directory: Path, method: str, *codes: str) -> Feature:
    """What is told of a method whose calls ended with these codes."""
    lines = [call(method, at, 1.0, code=code) for at, code in enumerate(codes)]
    found = report(directory, [call("ListPodSandbox"), call("ExecSync"), *lines])
    (of_method,) = [each for each in found.features if each.method == method]
    return of_method


def test_unimplemented(tmp_path: Path) -> None:
    """Methods that were answered UNIMPLEMENTED come with what clients do without them."""
    lines = [
        call("RuntimeConfig", code="UNIMPLEMENTED"),
        call("StreamContainers", code="UNIMPLEMENTED"),
        call("NewMethod", code="UNIMPLEMENTED"),
        call("Version"),
    ]
    found = report(tmp_path, [*lines, call("StreamContainers", 1, code="UNIMPLEMENTED")])
    assert [(each.method, each.calls, each.consequence) for each in found.unimplemented] == [
        ("StreamContainers", 2, "A kubelet and crictl use ListContainers instead."),
        ("NewMethod", 1, ""),
        ("RuntimeConfig", 1, "A kubelet takes the cgroup driver of its own configuration."),
    ]
    (other,) = found.other_methods
    assert (other.method, other.calls, other.errors) == ("NewMethod", 1, 1)


def test_api_versions(tmp_path: Path) -> None:
    """Each caller's versions of the API are told."""
    lines = [
        call("Version"),
        call("Version", service=OLD, executable="/usr/bin/old"),
        call("List", service="containerd.services.images.v1.Images"),
    ]
    found = report(tmp_path, lines).api_versions
    assert [(each.api_version, each.executable) for each in found] == [
        ("v1alpha2", "/usr/bin/old"),
        ("v1", "/usr/bin/kubelet"),
        ("", "/usr/bin/kubelet"),
    ]


@pytest.mark.parametrize(
    ("codes", "state"),
    [
        ((), "not seen"),
        (("UNIMPLEMENTED",), "not implemented"),
        (("OK", "UNIMPLEMENTED"), "not implemented"),
        (("UNAVAILABLE", "CANCELLED"), "in use"),
        (("UNAVAILABLE",) * (GIVEN_UP - 1), "failing"),
        (("UNAVAILABLE",) * GIVEN_UP, "given up"),
        (("UNAVAILABLE",) * GIVEN_UP + ("OK",), "in use"),
    ],
)
def test_evented_pleg(tmp_path: Path, codes: tuple[str, ...], state: str) -> None:
    """EventedPLEG is in use, failing, given up or not implemented by its last streams."""
    found = feature(tmp_path, "GetContainerEvents", *codes)
    assert (found.state, found.calls) == (state, len(codes))
    assert found.broken == codes.count("UNAVAILABLE")
    assert found.instead == {"ListPodSandbox": 1}


def test_open_stream(tmp_path: Path) -> None:
    """A stream that an audit log has as begun is in use."""
    stream = record(call("GetContainerEvents"), stage="RequestReceived")
    found = report(tmp_path, [stream])
    assert found.features[0].state == "in use"


def test_streamed_lists(tmp_path: Path) -> None:
    """A streamed list that fails for other reasons is not given up."""
    codes = ("UNAVAILABLE",) * GIVEN_UP
    assert feature(tmp_path, "StreamPodSandboxes", *codes).state == "failing"


def request(**security: str) -> dict[str, Any]:
    return {"config": {"linux": {"securityContext": security}}}


def test_deprecated_fields(tmp_path: Path) -> None:
    """Requests in an audit log tell which deprecated fields are set; a call log cannot."""
    pods = [
        record(call("RunPodSandbox", at), requestObject=request(seccompProfilePath=path))
        for at, path in enumerate(["runtime/default", "unconfined", ""])
    ]
    found = report(tmp_path, pods).deprecated
    assert found is not None
    assert [(each.method, each.field, each.calls) for each in found] == [
        ("RunPodSandbox", "config.linux.security_context.seccomp_profile_path", 2)
    ]
    none = record(call("RunPodSandbox"), requestObject=request())
    assert report(tmp_path, [none]).deprecated == []
    of_call_log = report(tmp_path, [call("RunPodSandbox")])
    assert of_call_log.deprecated is None
    assert of_call_log.unknown_fields.startswith("The call log has no messages")


def test_unreadable(tmp_path: Path) -> None:
    """Messages that the audit log could not decode are counted by their reason."""
    lines = [
        record(call("Status", at), unreadable={"response": "wrong wire type"}) for at in range(2)
    ]
    (found,) = report(tmp_path, lines).unreadable
    assert (found.method, found.direction, found.reason, found.calls) == (
        *("Status", "response"),
        *("wrong wire type", 2),
    )


def test_headroom(tmp_path: Path) -> None:
    """The largest message is told as a share of 16 MiB; of a stream, the mean of a call's."""
    lines = [
        call("ListContainers", response_bytes=8 << 20),
        call("StreamContainers", response_bytes=8 << 20, response_messages=4),
    ]
    sizes = {each.method: each for each in report(tmp_path, lines).sizes if each.largest_bytes > 99}
    assert (sizes["ListContainers"].share, sizes["ListContainers"].streamed) == (0.5, False)
    assert (sizes["StreamContainers"].share, sizes["StreamContainers"].streamed) == (0.125, True)
