"""Background tasks, daemon threads and generator-based coroutines, for every room above."""
