"""Capture: records of what passes, and the calls that are waited for.

- ``observer``: makes records of the relay's events.
- ``channel``: sends them to the process that writes, without ever waiting for it.
- ``trigger``: decides which call is waited for.
"""
