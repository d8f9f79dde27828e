"""Audit records: how they are built, and what each level includes."""
