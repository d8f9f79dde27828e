"""The messages that are captured of every client's calls."""

from criproxy.cri.text_redaction import PULLS
from criproxy.relay.capture import PULL_BYTES, with_pull_requests
from criproxy.wire.reading.message_capture import CaptureBudget, CaptureLimits

BUDGET = CaptureBudget(100)


def test_requests_of_pulls() -> None:
    """Beside what the audit log selects, only requests of PullImage are captured."""
    chosen = CaptureLimits(1, 2, CaptureBudget(5))
    select = with_pull_requests(lambda path: chosen if path == b"/a" else None, BUDGET)
    nothing = with_pull_requests(None, BUDGET)
    assert (select(b"/a"), select(b"/b"), nothing(b"/a")) == (chosen, None, None)
    for path in PULLS:
        assert select(path) == nothing(path) == CaptureLimits(PULL_BYTES, 0, BUDGET)
        both = with_pull_requests(lambda path: chosen, BUDGET)(path)
        assert both == CaptureLimits(PULL_BYTES, 2, chosen.budget)
