"""What a daemon is doing now, as figures and tables, for ``criproxy top`` and the page. Pure."""
