"""Writes packet captures (pcapng, draft-ietf-opsawg-pcapng) of made-up TCP connections.

A unix socket has no packets. Those who dissect protocols want TCP over IPv4, so each connection
gets an address and a port of its own; the packets are made from the bytes that passed.
"""

import sys
from array import array
from collections.abc import Iterator, Sequence
from struct import Struct, pack
from typing import Final

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_RAW_IP: Final = 101
"""LINKTYPE_RAW: packets begin with an IP header."""

_COMMENT: Final = 1
_NAME, _DESCRIPTION, _RESOLUTION = 2, 3, 9
_APPLICATION: Final = 4

_MAX_COMMENT: Final = 2000
"""Bytes of a packet's comment."""

SEGMENT: Final = 32 << 10
"""Bytes of a packet's payload: an IPv4 packet has at most 65,535."""

_SERVER: Final = bytes((10, 255, 255, 254))
_SERVER_PORT: Final = 80
"""The port of HTTP: Wireshark finds HTTP/2 there by its preface, without settings."""
_FIRST_PORT: Final = 10_000
_PORTS: Final = 50_000

SYN: Final = 0x02
ACK: Final = 0x10
PUSH: Final = 0x08
FIN: Final = 0x01

_ip: Final = Struct(">BBHHHBBH4s4s")
_tcp: Final = Struct(">HHIIBBHHH")
_packet: Final = Struct("<IIIII")


def header(application: str, name: str, description: str) -> bytes:
    """Return the beginning of a file: a section of one interface, times in nanoseconds."""
    section = pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options([(_APPLICATION, application.encode())])
    interface = pack("<HHI", _RAW_IP, 0, 0) + _options(
        [(_NAME, name.encode()), (_DESCRIPTION, description.encode()), (_RESOLUTION, b"\x09")]
    )
    return _block(_SECTION, section) + _block(_INTERFACE, interface)


def packet(at: int, data: bytes, comment: str = "") -> bytes:
    """Return a packet, captured ``at`` nanoseconds since the epoch."""
    head = _packet.pack(0, at >> 32, at & 0xFFFF_FFFF, len(data), len(data))
    text = comment.encode()[:_MAX_COMMENT].decode(errors="ignore").encode()
    options = _options([(_COMMENT, text)]) if text else b""
    return _block(_PACKET, head + data + bytes(-len(data) % 4) + options)


class TcpConnection:
    """A connection between a client and the runtime, as IP packets."""

    def __init__(self, number: int) -> None:
        """``number`` is the connection's, from 1: it decides the client's address and port."""
        address, port = divmod(number, _PORTS)
        self._client = bytes((10, address >> 16 & 0xFF, address >> 8 & 0xFF, address & 0xFF))
        self._port = _FIRST_PORT + port
        self._sent = [0, 0]  # sequence numbers of the client and of the runtime
        self._identification = 0

    def open(self) -> Iterator[bytes]:
        """Yield the packets of the handshake."""
        yield self._segment(0, SYN)
        self._sent[0] += 1
        yield self._segment(1, SYN | ACK)
        self._sent[1] += 1
        yield self._segment(0, ACK)

    def send(self, response: bool, data: bytes) -> Iterator[bytes]:
        """Yield the packets of bytes that one side sends."""
        for start in range(0, max(len(data), 1), SEGMENT):
            part = data[start : start + SEGMENT]
            yield self._segment(int(response), PUSH | ACK, part)
            self._sent[response] += len(part)

    def close(self) -> Iterator[bytes]:
        """Yield the packets of the end."""
        for side in (0, 1):
            yield self._segment(side, FIN | ACK)
            self._sent[side] += 1
        yield self._segment(0, ACK)

    def _segment(self, side: int, flags: int, data: bytes = b"") -> bytes:
        source, target = (self._client, _SERVER)[:: 1 - 2 * side]
        ports = (self._port, _SERVER_PORT)[:: 1 - 2 * side]
        acknowledged = self._sent[1 - side] & 0xFFFF_FFFF if flags & ACK else 0
        sequence = self._sent[side] & 0xFFFF_FFFF
        tcp = _tcp.pack(*ports, sequence, acknowledged, 5 << 4, flags, 0xFFFF, 0, 0) + data
        pseudo = source + target + pack(">HH", 6, len(tcp))
        tcp = tcp[:16] + pack(">H", _checksum(pseudo + tcp)) + tcp[18:]
        size = _ip.size + len(tcp)
        self._identification = (self._identification + 1) & 0xFFFF
        fields = (0x45, 0, size, self._identification, 0x4000, 64, 6)
        ip = _ip.pack(*fields, 0, source, target)
        return _ip.pack(*fields, _checksum(ip), source, target) + tcp


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    words = array("H", data + b"\0" if len(data) & 1 else data)
    if sys.byteorder == "little":
        words.byteswap()
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _block(kind: int, body: bytes) -> bytes:
    size = pack("<I", len(body) + 12)
    return pack("<I", kind) + size + body + size


def _options(options: Sequence[tuple[int, bytes]]) -> bytes:
    coded = (
        pack("<HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in options
    )
    return b"".join(coded) + pack("<HH", 0, 0)
