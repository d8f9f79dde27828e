"""Compares criproxy with other proxies, side by side in one run; results are ratios.

``python -m bench`` puts every contender in front of the same runtime and lets them take turns:
a round is every contender under every load, in an order drawn anew, and the median of the rounds
is what counts. Absolute figures belong to the machine, so the targets are ratios.

- ``contenders.py``, ``envoy_config.py``, ``criproxy_config.py``: the proxies, and how each is
  configured
- ``aio_proxy.py``, ``aio_rewrite.py``: the proxies on grpc.aio
- ``ruled.py``: those that act on calls: criproxy with rules, and what does the same elsewhere
- ``sections.py``: who is compared with whom, under which loads
- ``running.py``: what answers behind them, and all of it as processes
- ``load.py``, ``wire.py``, ``go_hpack.py``: a load that looks like grpc-go's on the wire
- ``loads.py``, ``processes.py``: a load's figures, and what it cost, from ``/proc``
- ``rounds.py``, ``soak.py``: the order of things; the million calls
- ``targets.py``, ``report.py``: what was to be reached, and the page that says what was
- ``profile.py``: where criproxy's CPU goes (``python -m bench.profile``)
- ``reading.py``: the CPU time of reading and reporting a call, interpreted and compiled
- ``holding.py``: the CPU time and the objects of calls that rules look at, in the same way
- ``builds.py``: measures interpreted and compiled modules by turns
- ``scaling.py``: how a call's CPU time grows with its size, and with rules, pods and connections
- ``NOTES.md``: what a person has to say about the figures; it becomes part of RESULTS.md
"""
