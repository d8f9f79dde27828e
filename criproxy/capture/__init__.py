"""Capture: what passes is kept in memory, and written when a call is as it is waited for.

``criproxy record`` makes the same records of the relay's events as the daemon's workers, waits for
the same conditions, and writes the same cassettes.

- ``observer``: makes records of the relay's events.
- ``deferred``: has that done when the relay has nothing else to do.
- ``channel``: sends them to the process that keeps them, without ever waiting for it.
- ``trigger``: decides which call is waited for.
- ``capturer``: that process of the daemon.
- ``spec``, ``counts``: the section ``capture`` of the configuration, and what is counted.
"""
