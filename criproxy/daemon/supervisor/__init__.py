"""The supervisor: owns sockets, signals, pages and processes, and relays nothing itself."""
