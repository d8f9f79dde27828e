"""Which messages are captured of every client's calls."""

from criproxy.cri.text_redaction import PULLS
from criproxy.relay.capture import with_pull_requests
from criproxy.wire.reading.message_capture import CaptureLimits


def test_requests_of_pulls() -> None:
    """Beside what the audit log selects, only requests of PullImage are captured."""
    chosen = CaptureLimits(1, 2)
    select = with_pull_requests(lambda path: chosen if path == b"/a" else None)
    assert (select(b"/a"), select(b"/b"), with_pull_requests(None)(b"/a")) == (chosen, None, None)
    for path in PULLS:
        assert select(path) == CaptureLimits(64 << 10, 0)
        assert with_pull_requests(lambda path: chosen)(path) == CaptureLimits(64 << 10, 2)
