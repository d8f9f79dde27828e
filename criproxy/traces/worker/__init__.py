"""Traces in a worker: which calls have a span, and the channel to the exporter."""
