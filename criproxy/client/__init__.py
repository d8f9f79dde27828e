"""A CRI client on grpcio, for the commands, the kubelet of the demo, and the tests.

- ``client``: :class:`CriClient`, every method by its CRI name.
- ``failures``: what a failed call means, in one line for a user.

The daemon never imports this room: grpcio alone costs more memory than the rest of the relay.
"""

from criproxy.client.client import CriClient

__all__ = ["CriClient"]
