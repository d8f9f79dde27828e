"""Commands on the daemon: run, checked, bypassed and upgraded."""
