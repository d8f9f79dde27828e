"""The audit log: who asked the runtime for what, in records that can be trusted."""
