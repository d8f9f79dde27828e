"""Policies: decide which streams of a connection are held, and by which handler."""
