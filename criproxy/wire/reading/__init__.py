"""Reads a connection's bytes in passing, and reports its calls as events."""
