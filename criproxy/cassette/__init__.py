"""Cassettes: files with the calls of clients, every message with its time.

- ``records``: the records of which a cassette consists.
- ``blocks``: the file format around them: compressed blocks, each readable by itself.
- ``writer``, ``reader``: write one, and read one in a bounded amount of memory.
- ``message_redaction``: removes secrets from the messages of records before they are written.
- ``call_index``: which calls a cassette has, and where their messages are.
"""
