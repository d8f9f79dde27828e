"""End to end: a real containerd, called directly and through criproxy."""
