"""criproxy: a byte-transparent proxy for the Kubernetes Container Runtime Interface.

A daemon between the kubelet (or crictl, or any gRPC client) and the container runtime.
Bytes go from socket to socket as they came; a core that does no I/O reads them in passing::

    client socket -> relay/ (a pair of asyncio Protocols) -> the runtime's socket
                       |  receive(side, bytes, now) -> events
                       v
                  wire/     HTTP/2 frames, HPACK, gRPC messages: calls that begin and end
                       |
                       v
                  cri/      what the bytes mean: the CRI's methods and messages
                       |
                       v
                  observe/  where what was seen goes: call log, metrics, health

``config/`` is the file's schema, ``daemon/`` puts the rooms together, ``cli/`` has one module
a command. ``embedded/`` is an in-memory CRI runtime and a kubelet-like client, ``demo/`` shows the
proxy between the two, ``client/`` is a CRI client on grpcio. Imports go one way, which
import-linter holds.
"""

__version__ = "0.1.0"  # pyproject.toml has it from here: to ask the metadata takes 1 MiB of memory
