"""Lines and records as criproxy writes them: of its own log, call log and audit log."""

import json
from typing import Any

import structlog

from criproxy.audit.spec import RedactSpec
from criproxy.observe.call_log import CallLog
from criproxy.observe.line_writer import LineWriter
from criproxy.observe.log import DaemonLog
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from tests.support.calls import CONNECTION, ended

EPOCH = 1_795_000_000.0
SUBJECT = {
    "namespace": "shop",
    "pod": "web-0",
    "pod_uid": "6d1f",
    "pod_id": "a" * 64,
    "container": "web",
    "container_id": "b" * 64,
    "image": "registry.example.com/shop/web:1",
}
