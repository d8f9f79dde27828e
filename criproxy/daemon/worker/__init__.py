"""A worker: relays the connections of some listeners, in a process of its own."""
