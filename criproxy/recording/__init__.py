"""``criproxy record``: a relay to a runtime that writes a cassette of what passes.

- ``observer``: makes records of the relay's events.
- ``channel``: sends them to the writing process, bounded, without ever waiting for it.
- ``writing``: the writing process, which removes secrets and compresses.
- ``session``: joins these with a listener, from the start to the end of a recording.
"""
