"""Measures reliability: restarts, upgrades, crashes, outages, attacks, faults and an hour of load.

``make chaos`` (``python -m bench.chaos``) runs the sections and writes bench/RELIABILITY.md. Sizes
come from the environment (``sizes``), so that a short form of each runs in the tests.

- ``load``: a kubelet-like client that reconnects, and records how each of its calls ends.
- ``node``: a runtime, the sockets that systemd would keep, and one daemon after the other.
- ``restarts``, ``kills``, ``outages``, ``attacks``, ``faults``, ``soak``: the sections.
- ``report``: what a section returns, and the page.
"""
