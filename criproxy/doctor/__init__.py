"""What criproxy cannot see on its node, and how to close the gap.

::

    System     reads the machine: /proc, the kernel's unix sockets, files
    Facts      what is gathered once: the sockets' identities, who holds which end
    checks     connections, sockets, listeners, kubelet, mounts, own: facts in, findings out
    examine    all of them

Nothing here changes anything. What cannot be read for want of rights is told as such.
"""
