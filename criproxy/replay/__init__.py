"""``criproxy replay``: a cassette answers as a runtime, or its reads are asked of one again.

- ``matching``: the fields by which a request finds its recorded calls.
- ``recorded_calls``: the calls of a cassette, by these fields and by pod.
- ``identities``: ids and uids that differ between the cassette and the client.
- ``playback``: which recorded call answers a request, as of where in the recording the client is.
- ``server``: a runtime that answers from a cassette.
- ``measuring``: a relay that measures calls as recorded ones were.
- ``comparison``: the reads of a cassette, asked of a runtime again.
"""
