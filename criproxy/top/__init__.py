"""``criproxy top``: what a daemon is doing now, as figures and on a screen."""
