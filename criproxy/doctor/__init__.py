"""Examines a node for ways past criproxy, and proposes a remedy for each.

::

    node.system   reads the machine: /proc, the kernel's unix sockets, files
    node.facts    gathers once who holds which end of the sockets' connections
    checks        connections, sockets, listeners, kubelet, mounts, proxy: facts in, findings out
    examine       runs all checks

Nothing is changed. What the process has no right to read is reported as such.
"""
