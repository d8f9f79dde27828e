"""Consumers of the relay's events: calls in flight, call log, metrics, HTTP endpoint.

The relay reports events after it has written their bytes; slow work (disks, scrapers) is done on
other threads behind bounded queues.
"""
