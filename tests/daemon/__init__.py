"""The daemon as a process, in front of the embedded runtime."""
