"""``criproxy rules test``: calls from a file, run through the rules."""
