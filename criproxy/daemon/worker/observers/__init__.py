"""What of a worker observes calls: the audit log, traces, captures, readers of the admin socket."""
