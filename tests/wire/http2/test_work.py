"""How many bytes are handled at once, by the work of their frames."""

import pytest

from criproxy.wire.http2.work import INTERCEPTED, READ, TERMINATED, Bound, part_size
from tests.support import wire

FRAMES = 5000


@pytest.mark.parametrize("bound", [READ, INTERCEPTED, TERMINATED])
@pytest.mark.parametrize(
    ("frame", "work"),
    [
        (wire.ping(), 1),
        (wire.window_update(0, 1), 1),
        (wire.settings((4, 1)), 17),  # may change the windows of all streams
        (wire.reset(1), 5),  # ends a call
        (wire.headers(1, b"", end=True), 8),  # begins one
    ],
)
def test_work_of_a_frame(bound: Bound, frame: bytes, work: int) -> None:
    """A part ends with the frame whose work exceeds the bound."""
    frames = -(-bound.work // work)
    assert part_size(frame * FRAMES, 0, 0, bound) == frames * len(frame)
