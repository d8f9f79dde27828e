"""``criproxy demo``: runs the proxy between a kubelet-like client and a runtime.

- ``scenario``: one demo, from the temporary directory to the tables at the end.
- ``proxy``: the daemon as a child process, with its call log and metrics.
- ``summary``: counts calls by method, and compares the client's counts with the proxy's.
- ``screen``: prints calls and tables to a terminal or a pipe.
"""
