"""The process at the other end of a unix socket: its credentials and its cgroup."""
