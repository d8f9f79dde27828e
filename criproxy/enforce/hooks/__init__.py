"""Hooks: scripts and webhooks that read and change messages."""
