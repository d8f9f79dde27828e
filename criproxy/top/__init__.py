"""``criproxy top``: its screen."""
