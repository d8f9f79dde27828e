"""Holds single streams of a connection while all others pass as raw bytes."""
