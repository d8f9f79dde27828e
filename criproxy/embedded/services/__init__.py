"""The CRI methods of the embedded runtime, one class for each subject."""
