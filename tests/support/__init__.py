"""Shared parts of tests: processes, a real containerd, images, waiting."""
