"""The log: its lines, those of calls, and the thread that writes them."""
