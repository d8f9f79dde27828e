"""HTTP/2, HPACK and gRPC: reads a connection's bytes in passing, and holds single streams.

No I/O, no clock, no knowledge of the CRI.

- ``errors``: why a connection can no longer be read.
- ``grpc``: messages, status codes and timeouts (gRPC over HTTP/2).
- ``http2``: frames and flow-control windows (RFC 9113).
- ``hpack``: header blocks (RFC 7541), decoded as the peer's decoder does.
- ``reading``: :class:`~criproxy.wire.reading.connection.ConnectionReader` is given the bytes of
  both directions as they pass, and reports calls as events. It never holds or changes a byte.
- ``intercept``: :class:`~criproxy.wire.intercept.interceptor.ConnectionInterceptor` holds single
  streams of a connection, for a handler to inspect and change.
"""
