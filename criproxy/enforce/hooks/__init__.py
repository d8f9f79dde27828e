"""Hooks: scripts and webhooks that inspect and change messages."""
