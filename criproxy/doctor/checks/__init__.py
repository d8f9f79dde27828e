"""The checks of ``criproxy doctor``, one module for each subject."""
