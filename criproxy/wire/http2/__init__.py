"""HTTP/2 frames and flow-control windows (RFC 9113)."""
