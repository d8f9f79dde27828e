"""The comparison with other proxies: side by side, in one run, as ratios.

``python -m bench`` puts every contender in front of the same runtime and lets them take turns:
a round is every contender once under every load, the next round begins with the next contender,
and the median of the rounds is what counts. Absolute figures belong to the machine, so the
targets are ratios.

- ``contenders.py``: the proxies, how each is configured and started
- ``backends.py``: what answers behind them
- ``load.py``, ``go_hpack.py``: a load that looks like grpc-go's on the wire; ``h2load.py``:
  nghttp2's load generator
- ``measure.py``: a load's figures and what it cost, from ``/proc``
- ``rounds.py``, ``soak.py``: the order of things; the million calls
- ``targets.py``, ``report.py``: what was to be reached, and the page that says what was
- ``profile.py``: where criproxy's CPU goes (``python -m bench.profile``)
- ``NOTES.md``: what a person has to say about the figures; it becomes part of RESULTS.md
"""
