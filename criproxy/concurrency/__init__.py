"""Background tasks, generator-based coroutines, and messages between processes."""
