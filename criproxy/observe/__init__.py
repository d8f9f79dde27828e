"""Where what was seen goes: calls in flight, call log, metrics, health.

Nothing here is on a call's way: the relay tells of events after their bytes have been written, and
what is slow (a disk, a scraper) has a thread of its own behind a bounded queue.
"""
