"""Audit log files: hash chain, reading, queries."""
