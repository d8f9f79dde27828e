"""From logged calls to pod starts: what took how long, and which call was the cause.

The lines of the call log and of the audit log are parsed to the same calls; pod starts are computed
from these without I/O, and only reading and following files does any.
"""
