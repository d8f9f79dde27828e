"""What to do with a call: facts in, a verdict with its reason out. Pure.

- ``spec``: a rule as it is written; ``facts``: what is known of a call; ``errors``. These three do
  without protobuf and CEL, whose memory only a process with rules pays for.
- ``ruleset``: rules as they are loaded, and which of them are for a method. ``rule``: one of them.
- ``expressions``, ``variables``, ``checked``: CEL. ``paths``, ``values``, ``rewriting``: what a
  rule changes of a message. ``difference``: what it has changed.
- ``images``: image names, both ways. ``chance``: delays and faults, now and then.
- ``memory``: which pod and container an id means.
"""
