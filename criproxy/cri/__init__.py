"""The CRI's methods and messages, without I/O and without a clock.

- ``methods``: every method of both API versions. Does not import protobuf, whose memory a process
  that only relays does not need.
- ``naming``: from a request's ``:path`` to a method; globs and groups of methods.
- ``messages``: the message classes of a method. ``pb``: the classes, generated from ``proto/``.
- ``redaction``: messages as JSON without secrets.
"""
