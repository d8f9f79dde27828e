"""The processes of the daemon: forked, watched, asked and drained by the supervisor."""
