"""Rules: which calls they match and how they change messages, without I/O and without a clock.

- ``spec``: the rules' part of the configuration; ``facts``: the properties of a call; ``errors``.
  These three do not import protobuf and CEL, whose memory a process without rules does not need.
- ``compiled``: rules compiled for the methods that they match.
- ``cel``: CEL expressions. ``messages``: field paths, rewriting, differences, decompression.
- ``images``: image names, in both directions. ``sampling``: random delays and faults.
- ``pod_cache``: the pod and container of an id. ``callers``: conditions on the client.
- ``profiles``: what the clients of a listener may do and see.
"""
