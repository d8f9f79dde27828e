"""What the bytes mean: the CRI's methods and messages. Pure: no I/O, no clock.

- ``methods``: every method of both API versions, and whether it changes anything. It does
  without protobuf, which a process that only relays never loads.
- ``pb``: the messages, generated from ``proto/``.
"""
