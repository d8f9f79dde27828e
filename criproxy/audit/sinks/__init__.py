"""The sinks that records are written to, one module for each kind."""
