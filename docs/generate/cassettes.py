"""The reference of cassettes: file format, records, and how requests find recorded calls."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from criproxy.cassette import blocks, records
from criproxy.cassette.records import KINDS, Record
from criproxy.cri.methods import METHODS
from criproxy.replay.matching import PREFERRED, REQUIRED
from docs.generate.descriptions import attributes, joined, summary
from docs.generate.markdown import code, table

_INTRODUCTION: Final = """\
# Cassettes

[`criproxy record`](command-line.md#criproxy-record) writes a cassette, and so does the daemon with
[`capture`](configuration.md#capture): the calls of clients, every
message with its time. [Record and replay](../how-to/record-and-replay.md) shows what it is good
for.

A cassette may be cut off or damaged anywhere: what can be read is read, and the rest is skipped and
counted. A file that is none, or one of a newer version, is an error that names the file and the
byte.

## Format

"""

_REDACTION: Final = """

## Secrets

Secrets are replaced by marks as in the audit log with its default `redact`: credentials of
registries, values of environment variables and of annotations that contain whole manifests, the
`info` of verbose statuses, and what looks like a secret in status messages. `--redact-annotation`
and `--redact-value` add to that. Fields that criproxy does not know are left out, and of methods
outside the CRI there are no messages, because secrets in them cannot be recognized. With
`--no-redact`, everything is as it was on the wire, decompressed.

## Limits

- A message of more than 16 MiB is not recorded, and neither is the rest of its direction of the
  call.
- 32 MiB may wait for the process that writes. What does not fit is lost, counted, and noted in the
  cassette.
- Each second what was recorded is written. A recording that is killed loses no more than that.
- A replay and a comparison know the first 500,000 calls of a cassette, and 1,000,000 messages of
  them, and say how many are left out. Reading and exporting have no limit: one block is in memory.

## Records

"""

_MATCHING: Final = """
## Which recorded call answers

`criproxy replay --as-runtime` answers a request with a recorded call of the same method, in either
version of the API. The fields of the second column have to be equal. Of several calls, those are
taken that are equal in the fields of the third column as well, if there are any. All other fields
may differ.

"""

_AFTER: Final = """
A list with a filter that was never asked for is a recorded list without one, with the filter
applied to it.

Of calls that change something, the first recorded one answers the first such request, the second
one the second, and the last one all further requests. For reads, each pod has a position in the
recording. A change of the pod moves it to the end of the recorded change, and from there it goes on
with the time that passes, multiplied by `--pace`, until just before the next recorded change, which
the client has yet to make. A read is answered by the latest recorded one before this position; a
read about no pod, such as a list, follows the pod that was changed last. Events of containers are
sent when their pod gets to them. With `--pace none` nothing takes time, and the position is always
just before the next change.

A pod or container that is created once has its recorded id, and a new one each further time. Its
uid and its labels are the client's, and so they are in all answers and events.

A call that had hung when it was recorded, until its deadline, hangs again. A request without a
recorded call ends with FAILED_PRECONDITION and a message that names its fields and those that were
recorded; with UNIMPLEMENTED, if the cassette has no call of its method and clients do without it,
as with GetContainerEvents.
"""


def cassettes() -> str:
    """Return the page."""
    return (
        _INTRODUCTION
        + _paragraphs(inspect.getdoc(blocks) or "")
        + "\n\n"
        + _paragraphs(inspect.getdoc(records) or "")
        + _REDACTION
        + "\n".join(map(_record, KINDS))
        + _MATCHING
        + table(("Method", "Equal", "Preferably equal"), _fields())
        + _AFTER
    )


def _paragraphs(text: str) -> str:
    """Return a docstring without its first line, as Markdown."""
    return "\n\n".join(map(joined, text.split("\n\n")[1:]))


def _record(kind: type[Record]) -> str:
    described = attributes(kind)
    tag = kind.__struct_config__.tag
    rows = [(code(each.encode_name), described[each.name]) for each in msgspec.structs.fields(kind)]
    return f"### `{tag}`\n\n{summary(kind)}\n\n{table(('Field', 'Meaning'), rows)}"


def _fields() -> Iterator[Sequence[str]]:
    names = sorted({method.name for method in METHODS.values()})
    for name in names:
        required, preferred = REQUIRED.get(name, ()), PREFERRED.get(name, ())
        if name != "GetContainerEvents":
            yield code(name), _codes(required) or "(none)", _codes(preferred)


def _codes(names: Sequence[str]) -> str:
    return ", ".join(map(code, names))
