"""The audit log in a worker: observes calls and hands items to the recorder."""
