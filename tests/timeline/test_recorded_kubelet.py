"""Pod starts of the recorded connections of a real kubelet, from the lines that the log has."""

import structlog

from criproxy.daemon.worker.observers.call_subjects import CallSubjects
from criproxy.observe.logs.call_log import CallLog
from criproxy.relay.listener import captures_nothing
from criproxy.timeline.logged_call import parse_line
from criproxy.timeline.pod_start import AFTER_START, CREATE, KUBELET, PULL, SANDBOX, START
from criproxy.timeline.pod_starts import PodStarts
from criproxy.wire.reading.connection import CallEnded, ConnectionReader
from tests.support.calls import CONNECTION
from tests.support.captures import NAMES, capture


def lines_of(name: str) -> list[bytes]:
    """The lines of the call log for a recorded connection."""
    subjects, lines = CallSubjects(), list[bytes]()
    log = CallLog(
        structlog.get_logger(), lines.append, "debug", {}, lambda time: time, subjects.fields_of
    )
    reader = ConnectionReader(
        select_capture=subjects.capturing(captures_nothing)(CONNECTION),
    )
    for sent in capture(name):
        for event in reader.receive(sent.side, sent.data, sent.now):
            if isinstance(event, CallEnded):
                log.ended(CONNECTION, event.call, slow=False)
                subjects.ended(event.call)
    return lines


def test_starts() -> None:
    """A pod with an init container and present images, and one whose image is pulled."""
    found = PodStarts()
    for name in NAMES:
        if name.startswith("kubelet-"):
            for line in lines_of(name):
                call = parse_line(line)
                assert call is not None
                assert found.add(call) == []
    assert (found.unnamed, found.dropped) == (0, 0)
    web, job = sorted(found.finish(), key=lambda start: -len(start.calls))
    assert (web.pod.namespace, web.pod.pod) == ("default", "static-web-labnode")
    assert (job.pod.pod, web.state, job.state) == ("static-job-labnode", "started", "started")
    assert [(each.kind, each.subject) for each in web.phases] == [
        (SANDBOX, ""),
        (KUBELET, ""),
        (CREATE, "init"),
        (KUBELET, ""),
        (START, "init"),
        (AFTER_START, "init"),
        (CREATE, "web"),
        (KUBELET, ""),
        (START, "web"),
        (AFTER_START, "web"),
        (CREATE, "ticker"),
        (KUBELET, ""),
        (START, "ticker"),
    ]
    assert web.cause.kind == SANDBOX
    assert (job.cause.kind, job.cause.subject) == (PULL, "127.0.0.1:5999/lab/job:1")
