"""The node's state that the checks read: processes, sockets, mounts, kubelet configuration."""
