"""HTTP/2, HPACK and gRPC framing, read in passing.

No I/O, no clock, no knowledge of the CRI. :class:`~criproxy.wire.connection.ConnectionReader` is
the front door: it is given the bytes of both directions as they pass and tells which calls began
and ended. It never holds or changes a byte.

- ``http2``: the numbers of RFC 9113 that are used here.
- ``errors``: why a connection can no longer be read.
- ``huffman``, ``hpack``: header blocks (RFC 7541), decoded as the peer's decoder does.
- ``frames``: frames of one direction, handed to a handler.
- ``grpc``: messages, status codes and timeouts (gRPC over HTTP/2).
- ``calls``: what is known of one call.
- ``connection``: the streams of a connection and the events that they make.
"""
