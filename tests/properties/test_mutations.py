"""Mutated recordings: reading never raises, and its memory is bounded."""

import gc
import types
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support import wire
from tests.support.captures import NAMES, capture
from tests.support.cutting import cuts
from tests.support.wire import Began, Conversation, Ended, Report, Sent, Stopped

KINDS = ("flip", "insert", "delete", "duplicate", "swap direction", "drop", "end")
_LONGEST = 20_000  # bytes replayed after a mutation: errors show soon

FOOTPRINT_LIMIT = 300_000
"""Bytes that a reader with the limits below may hold, table and calls included, whatever comes."""


def new_reader() -> ConnectionReader:
    return ConnectionReader(header_block_limit=8192, stream_limit=100)


def footprint(reader: ConnectionReader) -> int:
    """The bytes of everything that only the reader leads to."""
    seen: set[int] = set()
    todo: list[object] = [reader]
    total = 0
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(
            thing, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType
        ):
            continue
        seen.add(id(thing))
        total += thing.__sizeof__()
        todo += gc.get_referents(thing)
    return total


class Mutation:
    """One damage, at a byte of one chunk: ``amount`` and ``noise`` say how much and with what."""

    def __init__(self, name: str, kind: str, place: float, amount: int, noise: bytes) -> None:
        recorded = capture(name)
        chunks = [number for number, sent in enumerate(recorded) if sent.data]
        number = chunks[int(place * len(chunks))]
        side, data, now = recorded[number]
        # The same fraction, spread anew, gives the byte.
        at = int(place * len(chunks) % 1 * len(data))
        self.before: Conversation = recorded[:number] + ([Sent(side, data[:at], now)] if at else [])
        self.after: Conversation = [
            *recorded[:number],
            *self._damaged(kind, Sent(side, data, now), at, amount, noise),
            *shortened(recorded[number + 1 :]),
        ]

    @staticmethod
    def _damaged(kind: str, sent: Sent, at: int, amount: int, noise: bytes) -> Conversation:
        side, data, now = sent
        head, tail = data[:at], data[at:]
        match kind:
            case "flip":
                damaged = head + bytes((tail[0] ^ (1 << amount % 8),)) + tail[1:]
            case "insert":
                damaged = head + noise + tail
            case "delete":
                damaged = head + tail[1 + amount :]
            case "duplicate":
                damaged = head + tail[: 1 + amount] + tail
            case "swap direction":
                swapped = Sent(Side(1 - side), tail, now)
                return [Sent(side, head, now), swapped] if head else [swapped]
            case "drop":
                damaged = head
            case _:
                return [*([Sent(side, head, now)] if head else []), Sent(side, b"", now)]
        return [Sent(side, damaged, now)] if damaged else []


def shortened(conversation: Iterable[Sent]) -> Conversation:
    left = _LONGEST
    kept = []
    for sent in conversation:
        left -= len(sent.data)
        if left < 0:
            break
        kept.append(sent)
    return kept


MUTATIONS = st.builds(
    Mutation,
    st.sampled_from(NAMES),
    st.sampled_from(KINDS),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 40),
    st.binary(min_size=1, max_size=20),
)


def check_shape(events: list[Report], reader: ConnectionReader) -> None:
    """Each call begins before it ends, once; a stop comes last, once; the rest is in flight."""
    open_streams: list[int] = []
    for number, event in enumerate(events):
        if isinstance(event, Began):
            assert event.stream not in open_streams
            open_streams.append(event.stream)
        elif isinstance(event, Ended):
            open_streams.remove(event.stream)
        else:
            assert number == len(events) - 1
            assert not open_streams
    assert [call.stream for call in reader.calls] == open_streams
    assert reader.reading is not any(isinstance(event, Stopped) for event in events)


@given(MUTATIONS, cuts())
def test_mutated_recordings(mutation: Mutation, cut: wire.Cut) -> None:
    """Events before the mutation stay, whatever follows; nothing raises, memory is bounded."""
    reader = new_reader()
    events = wire.read(reader, mutation.after, cut)
    intact = wire.read(new_reader(), mutation.before)
    assert events[: len(intact)] == intact
    check_shape(events, reader)
    assert footprint(reader) < FOOTPRINT_LIMIT


@given(MUTATIONS, cuts())
def test_the_cuts_of_damaged_bytes(mutation: Mutation, cut: wire.Cut) -> None:
    """Mutated bytes give the same events for every cut."""
    assert wire.read(new_reader(), mutation.after, cut) == wire.read(new_reader(), mutation.after)


FRAMES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        wire.frame,
        st.integers(0, 12),
        st.integers(0, 255),
        st.integers(0, 9),
        st.binary(max_size=40),
    ),
    st.builds(wire.request, st.integers(0, 20), end=st.booleans()),
    st.builds(wire.response, st.integers(0, 9), end=st.booleans()),
    st.builds(wire.trailers, st.integers(0, 9), st.integers(0, 20)),
    st.builds(wire.reset, st.integers(0, 9), st.integers(0, 20)),
    st.builds(wire.goaway, st.integers(0, 9)),
    st.tuples(st.integers(0, 6), st.integers(0, (1 << 32) - 1)).map(wire.settings),
)
ANYTHING = st.lists(st.builds(Sent, st.sampled_from(Side), FRAMES), max_size=40)


@given(ANYTHING, cuts(), st.booleans())
def test_anything(sent: Conversation, cut: wire.Cut, opened: bool) -> None:
    """Any frames, in any order and from either side, are read or refused, alike for every cut."""
    sent = wire.conversation(*sent) if opened else sent
    reader = new_reader()
    events = wire.read(reader, sent, cut)
    assert events == wire.read(new_reader(), sent)
    check_shape(events, reader)
    assert footprint(reader) < FOOTPRINT_LIMIT


def test_the_footprint_is_bounded() -> None:
    """A peer that fills table, block and calls stays within the limits."""
    reader = new_reader()
    sent = wire.conversation(*(wire.client(wire.request(1 + 2 * n)) for n in range(100)))
    entries = b"".join(b"\x40\x01n\x01" + bytes((n,)) for n in range(200))
    sent.append(wire.client(wire.headers(1, entries)))
    sent.append(wire.client(wire.frame(wire.HEADERS, 0, 1, b"\x82" * 8192)))
    sent.append(wire.client(wire.frame(wire.CONTINUATION, 0, 1)[:-1]))
    wire.read(reader, sent)
    assert len(reader.calls) == 100
    assert 20_000 < footprint(reader) < FOOTPRINT_LIMIT
