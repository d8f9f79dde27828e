"""Hypothesis strategies for cuts: how the bytes of a conversation fall into pieces."""

from itertools import groupby

from hypothesis import strategies as st

from tests.support.wire import Conversation, Cut, Sent, at_random, byte_by_byte, whole


def cuts() -> st.SearchStrategy[Cut]:
    """Whole, byte by byte, or at random into pieces of up to a few bytes, or many."""
    return st.one_of(
        st.just(whole),
        st.just(byte_by_byte),
        st.builds(at_random, st.integers(0, 1 << 16), st.sampled_from((3, 40, 3000))),
    )


def joined(conversation: Conversation) -> Conversation:
    """The same bytes in as few pieces as their order allows: cuts then fall across frames."""
    runs = groupby(conversation, lambda sent: (sent.side, sent.now, bool(sent.data)))
    return [Sent(side, b"".join(s.data for s in run), now) for (side, now, _), run in runs]
