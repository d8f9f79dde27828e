"""Traces: a span for each call that is sampled, and one for each start of a pod."""
