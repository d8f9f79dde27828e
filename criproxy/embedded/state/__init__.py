"""The state of the embedded runtime."""
