"""HTTP/2, HPACK and gRPC: reads relayed connections, and holds single streams of them.

No I/O, no clock, no knowledge of the CRI.

- ``errors``: why a connection can no longer be read.
- ``grpc``: messages, status codes and timeouts (gRPC over HTTP/2).
- ``http2``: frames and flow-control windows (RFC 9113).
- ``hpack``: header blocks (RFC 7541), decoded as the peer's decoder does.
- ``reading``: :class:`~criproxy.wire.reading.connection.ConnectionReader` is given the bytes of
  both directions as they pass, and returns the calls as events. It never changes a byte.
- ``intercept``: :class:`~criproxy.wire.intercept.interceptor.ConnectionInterceptor` holds single
  streams of a connection, for a handler to inspect and change.
"""
