"""Background tasks and generator-based coroutines."""
