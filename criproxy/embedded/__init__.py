"""An in-memory CRI runtime and a kubelet-like client, for the demo and the tests.

The runtime answers every method of both API versions from one state, with containerd's error codes
and texts. No process runs and nothing is written: commands are simulated.

- ``server``: the gRPC server; ``background`` and ``process`` run it in a thread or a child process.
- ``services``: the CRI methods by subject; ``services.handlers`` joins them for both API versions.
- ``state``: sandboxes, containers and images, their events, views and simulated processes.
- ``latency``: how long calls take. ``population``: the pods at the start.
- ``kubelet``: the client.
"""
