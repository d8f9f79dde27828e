"""Header lists of all sizes beside held streams: the forwarded fields and their size."""

from typing import NamedTuple

import hpack
from hypothesis import given
from hypothesis import strategies as st

from criproxy.wire.errors import LimitError
from criproxy.wire.grpc import StatusCode
from criproxy.wire.http2.frame_builder import PLACEHOLDER
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import Side
from tests.support import wire
from tests.support.cutting import cuts
from tests.support.handlers import Gathering
from tests.support.wire import Cut, Header
from tests.support.worlds import RawWorld

C, R = Side.CLIENT, Side.RUNTIME
LIMIT = 64 << 10
REFUSED, DENIED = b"8", b"7"


class Fields(NamedTuple):
    """The fields of a block: ``count`` times a large one, which is indexed or sensitive, or not."""

    count: int
    number: int
    size: int
    sensitive: bool

    def beside(self, fields: list[Header]) -> list[hpack.HeaderTuple]:
        kind = hpack.NeverIndexedHeaderTuple if self.sensitive else hpack.HeaderTuple
        large = kind(b"x-%d" % self.number, b"v" * self.size)
        return [*(hpack.HeaderTuple(*field) for field in fields), *[large] * self.count]


class Step(NamedTuple):
    """A call that begins, an answer, a reset, a handler's action, or a new table size."""

    kind: str
    stream: int
    fields: Fields
    path: bytes


FIELDS = st.builds(
    Fields,
    st.sampled_from((0, 0, 1, 3, 15, 17, 60)),
    st.integers(0, 2),
    st.sampled_from((10, 1500, 4000)),
    st.sampled_from((False, False, False, True)),
)
STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(("call", "call", "call", "answer", "answer", "act", "reset", "resize")),
        st.integers(0, 5),
        FIELDS,
        st.sampled_from((b"/other", b"/held", b"/denied")),
    ),
    max_size=25,
)


class Acting(Gathering):
    """Forwards its messages when a test calls it."""

    def __init__(self, stream: HeldStream) -> None:
        super().__init__(stream)
        self._ended: list[tuple[Side, list[Header]]] = []

    def ended(self, side: Side, trailers: list[Header]) -> None:
        self._ended.append((side, trailers))

    def act(self) -> None:
        while self._ended:
            super().ended(*self._ended.pop(0))


class Peers(RawWorld):
    """Both sides with an encoder of hpack each; calls of ``/held`` wait for their handlers."""

    def __init__(self, cut: Cut) -> None:
        self.handlers: dict[int, Acting] = {}
        super().__init__(self._hold, lambda path: path != b"/other")
        self._pieces = cut
        self._may_stop_reading = True
        self._encoders = {side: hpack.Encoder() for side in Side}
        self.decoders = {side: hpack.Decoder() for side in Side}
        self.lists: dict[tuple[Side, int], list[list[Header]]] = {}
        self.received: dict[tuple[Side, int], list[list[Header]]] = {}
        self.last = 1
        for decoder in self.decoders.values():
            decoder.max_header_list_size = 1 << 30

    def _hold(self, stream: HeldStream) -> Hold | None:
        if stream.path == b"/denied":
            return Hold(Denying(stream), True, True, hidden=True)
        if stream.path != b"/held":
            return None
        self.handlers[stream.id] = Acting(stream)
        return Hold(self.handlers[stream.id], True, True)

    def send(self, side: Side, data: bytes) -> None:
        for piece in self._pieces(data):
            self.receive(side, piece)

    def headers(self, side: Side, stream: int, fields: list[hpack.HeaderTuple], end: bool) -> None:
        block = self._encoders[side].encode(fields)
        self.lists.setdefault((side, stream), []).append([(f[0], f[1]) for f in fields])
        self.send(side, wire.headers(stream, block, end=end, fragments=1 + len(block) // 16_000))

    def run(self, step: Step) -> None:
        stream = self.last - 2 * (step.stream % ((self.last + 1) // 2))
        if step.kind == "call":
            self.last += 2
            fields = step.fields.beside(wire.request_fields(step.path))
            self.headers(C, self.last, fields, end=True)
        elif step.kind == "answer" and self.reader.call(stream) is not None:
            self.headers(R, stream, step.fields.beside([(b":status", b"200")]), end=False)
            self.headers(R, stream, step.fields.beside([(b"grpc-status", b"0")]), end=True)
        elif step.kind == "reset" and self.reader.call(stream) is not None:
            self.send(C, wire.reset(stream))
        elif step.kind == "act" and stream in self.handlers:
            self.command(self.handlers[stream].act)
        elif step.kind == "resize":
            side = Side(step.stream % 2)
            encoder = self._encoders[Side(1 - side)]
            if encoder.table_size_changes:  # hpack announces each of them, also a larger one
                return
            encoder.header_table_size = step.fields.size
            self.send(side, wire.settings((wire.HEADER_TABLE_SIZE, step.fields.size)))
            self.send(Side(1 - side), wire.settings(ack=True))
            self.collect()
            self.decoders[side].max_allowed_table_size = step.fields.size
        self.collect()

    def collect(self) -> None:
        """Decode what each side has received."""
        for side in Side:
            for stream, lists in self.blocks(side, self.decoders[side]).items():
                self.received.setdefault((side, stream), []).extend(lists)


class Denying(Gathering):
    """Denies its call."""

    def opened(self) -> None:
        self.stream.reply(StatusCode.PERMISSION_DENIED, "")


def size(fields: list[Header]) -> int:
    return sum(len(name) + len(value) + 32 for name, value in fields)


@given(STEPS, cuts())
def test_lists_of_all_sizes(steps: list[Step], cut: Cut) -> None:
    """Each list arrives as it was sent, or its call is ended; both sides' tables stay in step."""
    peers = Peers(cut)
    peers.headers(C, 1, hpack_fields(wire.request_fields(b"/held")), end=True)
    peers.headers(R, 1, hpack_fields([(b":status", b"200"), (b"x-0", b"v" * 4000)]), end=True)
    for step in steps:
        try:
            peers.run(step)
        except LimitError:
            assert step.fields.count * step.fields.size > LIMIT
            break
        if not peers.reader.reading:  # as the relay, which closes the connection
            assert step.fields.count * step.fields.size > LIMIT or step.kind == "act"
            break
    for (side, stream), lists in peers.received.items():
        request = peers.lists[C, stream][0]
        for fields in lists:
            if fields not in peers.lists.get((Side(1 - side), stream), []):
                ended = dict(fields).get(b"grpc-status")
                assert fields == PLACEHOLDER if side is R else ended in (REFUSED, DENIED)
                assert size(request) > LIMIT or (b":path", b"/denied") in request
    for side in Side:
        received, written = len(peers.given[side]), len(peers.passed[Side(1 - side)])
        assert written < 4 * received + 20_000
    peers.lose(C)
    assert (peers.budget.streams, peers.budget.bytes) == (0, 0)


def hpack_fields(fields: list[Header]) -> list[hpack.HeaderTuple]:
    return [hpack.HeaderTuple(*field) for field in fields]
