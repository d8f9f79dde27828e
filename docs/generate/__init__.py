"""Generates the reference pages and the manual page from the code that they describe."""
