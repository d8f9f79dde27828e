"""What ``criproxy demo`` shows: the proxy at work between a kubelet-like client and a runtime.

- ``play``: the whole, from the temporary directory to the tables at the end.
- ``proxy``: the daemon as a child process, and what it says it has seen.
- ``summary``: calls counted by method, and the client's count held against the proxy's.
- ``screen``: how it looks in a terminal and in a pipe.
"""
