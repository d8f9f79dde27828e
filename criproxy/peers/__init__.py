"""Who is at the other end of a unix socket: its process, its cgroup, its credentials."""
