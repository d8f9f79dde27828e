"""The CRI methods of the embedded runtime."""
