"""Background tasks, generator-based coroutines, child processes and messages between processes."""
