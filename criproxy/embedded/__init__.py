"""An in-memory CRI runtime and a kubelet-like client, for the demo and the tests.

The runtime answers every method of both API versions from one state, with the codes and texts of
containerd for what goes wrong. No process runs and nothing is written: commands are simulated.

- ``server``: the gRPC server; ``background``: the same in a thread, for tests.
- ``service``: the parts together, method by method; v1alpha2 is v1 with less in it.
- ``state``, ``store``, ``views``: what there is, how it is found, how it looks as messages.
- ``sandboxes``, ``containers``, ``images``, ``execution``, ``stats``, ``metrics``,
  ``checkpoints``, ``node``: the methods, by what they are about.
- ``programs``, ``usage``: what simulated processes do and use.
- ``events``: the stream of container events. ``latency``: how long calls take.
- ``population``: pods that are there from the start.
- ``kubelet``: the client.
"""
