"""Cassettes: files with the calls of clients, every message with its time.

- ``records``: the records of which a cassette consists.
- ``blocks``: the file format around them: compressed blocks, each readable by itself.
- ``writer``, ``reader``: write one, and read one in a bounded amount of memory.
- ``message_redaction``: removes secrets from the messages of records before they are written.
- ``ring``: the last blocks of a recording, in memory.
- ``open_calls``: follows records: the calls in flight, and the pods that they are about.
- ``packet_export``, ``trace_export``: other formats.
- ``call_index``: which calls a cassette has, and where their messages are.
"""
