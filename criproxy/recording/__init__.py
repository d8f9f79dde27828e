"""``criproxy record``: a relay to a runtime that writes a cassette of what passes.

- ``writing``: the writing process, which removes secrets and compresses.
- ``session``: joins it with a listener, from the start to the end of a recording.
"""
