"""The embedded runtime's state: objects, store, events, simulated processes."""
