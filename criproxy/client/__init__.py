"""A CRI client on grpcio, for the commands, the kubelet of the demo, and the tests.

- ``client``: :class:`CriClient`, every method by its CRI name.
- ``failures``: explains a failed call in one line for a user.

The daemon never imports this package: grpcio alone needs more memory than the rest of the relay.
"""

from criproxy.client.client import CriClient

__all__ = ["CriClient"]
