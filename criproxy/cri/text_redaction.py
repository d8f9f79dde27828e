"""Redaction of secrets in texts of others: status messages, and what hooks report.

A runtime passes on what a registry, a proxy or a plugin has told it, URLs and headers included.
Every text that is written to a log, an audit record or a webhook goes through :func:`redact_text`.
All expressions take linear time: no two attempts of one read the same characters more than a
constant number of times. Imports no protobuf: the call log does without.
"""

import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, islice
from json import dumps
from typing import Final

from criproxy.cri.methods import METHODS

PULLS: Final = frozenset(
    path.encode() for path, method in METHODS.items() if method.name == "PullImage"
)
"""The paths of the calls whose requests carry credentials."""

MIN_SECRET: Final = 4
"""Characters from which on a credential is looked for: a shorter one would match unrelated text."""

_MIN_ENCODED: Final = 6
"""Characters of base64 from which on a part of a credential is looked for."""

_MAX_FIELDS: Final = 64
"""Fields of a PullImageRequest, and of its AuthConfig, from which on its credentials are unknown:
the API has 3 and 6, and each credential costs a search of the text."""

_MAX_CREDENTIALS: Final = 64 << 10
"""Bytes of all credentials of a request above which they are unknown: tokens have a few KiB."""

_MARGIN: Final = 8192
"""Characters behind the limit of a text that are searched for the end of a secret."""

_LONGEST_FORM: Final = 12
"""Characters of the longest form of one character of a credential."""

_DECODINGS: Final = 2
"""How many times a text is percent-decoded: a URL within a URL's query is encoded twice."""

_USER_INFO: Final = re.compile(
    r"(?i)(?<=://)[^\s/?#\"'<>\\]*(?=@)"
    r"|(?<=://)[^\s/?#:@\"'<>\\]*:(?!\d{1,5}(?:[/?#\s]|$))(?:(?!://)[^\s\"'<>@])+(?=@)"
    r"|(?<=%3a%2f%2f)(?:(?!%2f|%3f|%23|%40)[^\s/?#@\"'<>\\])*(?=%40|@)"
)
"""The user information of a URL, that with a slash in the password, and that in an encoded URL."""

_NAME: Final = re.compile(r"(?i)(?<![\w.~-])[\w.~-]{1,80}(?=(=|%3d|\\u003d|\\?\"\s?:\s?\\?\"))")
"""The name of a parameter of a query or a form, or of a member of a JSON object; before its value,
both possibly encoded."""

_ENCODED_EQUALS: Final = ("%3d", "%3D", "\\u003d", "\\u003D")
_VALUE: Final = re.compile(r"[^\s&\"'<>\\]*")
_ENCODED_VALUE: Final = re.compile(r"(?i)(?:(?!%26|\\u0026)[^\s&\"'<>])*")

_SECRET_NAME: Final = re.compile(
    r"(?i)signature|token|secret|passw|passphrase|credential|api.?key|access.?key|jwt|session"
    r"|authorization|(?:^|[-_.])auth(?:$|[-_.])"
)
"""Names of parameters that carry secrets or sign a URL, of S3, Google Cloud Storage, CloudFront,
registries and OAuth."""

_SECRET_IN_QUERY: Final = re.compile(
    r"(?i)(?:u0026|amp|25|26|3f)*(?:sig|sign|key|verify|pwd|pass|hmac)"
)
"""Short names that have another meaning outside a query, behind what an encoded ``&`` or ``?``
leaves of itself."""

_HEADER: Final = re.compile(r"(?i)(?<![\w-])(?:basic|bearer)\s{1,8}([\w+/.~-]{8,}=*)")
"""What may be the credentials of an Authorization header."""

_JWT: Final = re.compile(r"(?<![\w.-])eyJ[\w-]+\.eyJ[\w-]+(?:\.[\w-]*)?")
"""A JSON Web Token (RFC 7519): the base64 of ``{"`` begins both of its parts."""

_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_BASE64: Final = re.compile(rb"[\w+/=-]*")


def mark(size: int) -> str:
    """Return the mark that replaces a secret of ``size`` bytes."""
    return f"[redacted: {size} bytes]"


def redact_text(text: str, credentials: Iterable[str] = (), limit: int | None = None) -> str:
    """Return a text with marks in place of secrets.

    These are the user information of URLs, values of parameters such as ``X-Amz-Signature``,
    ``sig`` and ``token``, credentials of headers, JSON Web Tokens, and ``credentials``: the strings
    that the call's request carried, as they are, percent-encoded, quoted or within base64.

    ``limit``: characters of the text after which it is cut; a secret that begins before is
    recognized beyond it. None: no limit.
    """
    wanted = {each for each in credentials if len(each) >= MIN_SECRET}
    cut = limit is not None and len(text) > limit
    if limit is not None and cut:
        text = text[: limit + _MARGIN + _LONGEST_FORM * max(map(len, wanted), default=0)]
    spans: list[tuple[int, int]] = [found.span() for found in _USER_INFO.finditer(text)]
    spans += _parameters(text)
    spans += [found.span(1) for found in _HEADER.finditer(text) if _is_no_word(found[1])]
    spans += [found.span() for found in _JWT.finditer(text)]
    if wanted:
        spans += _spans_of(text, wanted)
    if limit is not None and cut:
        spans = [span for span in merged_spans(spans) if span[0] < limit]
        text = text[: max([limit, *(end for _, end in spans[-1:])])] + "\N{HORIZONTAL ELLIPSIS}"
    return replace_spans(text, spans)


def is_secret_name(name: str) -> bool:
    """Return whether a parameter, a key or a field of this name carries a secret."""
    return _SECRET_NAME.search(name) is not None


def replace_spans(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a text with marks in place of spans, which may overlap."""
    pieces = []
    done = 0
    for start, end in merged_spans(spans):
        size = len(text[start:end].encode(errors="surrogateescape"))
        pieces += [text[done:start], mark(size)]
        done = end
    return "".join([*pieces, text[done:]]) if pieces else text


def pull_credentials(request: bytes) -> list[str] | None:
    """Return the credentials in an encoded PullImageRequest, of either API version.

    Returns those before the error, if the message is malformed, and None if it has more fields, or
    longer credentials, than any client has a use for: what they are is not looked for then. Only
    AuthConfig (field 2) is read: its password, auth, identity_token and registry_token.
    """
    fields = list(islice(_fields(request), _MAX_FIELDS))
    auths = [value for number, value in fields if number == 2]
    found = list(islice((each for auth in auths for each in _fields(auth)), _MAX_FIELDS))
    if len(fields) == _MAX_FIELDS or len(found) == _MAX_FIELDS:
        return None
    values = [value for number, value in found if number in (2, 3, 5, 6) and value]
    if sum(map(len, values)) > _MAX_CREDENTIALS:
        return None
    return [value.decode(errors="replace") for value in values]


def _parameters(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the values of secret parameters stand, leaving out those within others."""
    end = 0
    for found in _NAME.finditer(text):
        if found.start() < end or not _is_secret(text, found.start(), found[0]):
            continue
        start = found.end(1)
        value = (_ENCODED_VALUE if found[1] in _ENCODED_EQUALS else _VALUE).match(text, start)
        assert value is not None
        end = value.end()
        yield start, end


def _is_secret(text: str, start: int, name: str) -> bool:
    if is_secret_name(name):
        return True
    found = _SECRET_IN_QUERY.fullmatch(name)
    return found is not None and text[max(0, start - 1) : start] in ("?", "&", ";", "%", "\\")


def _is_no_word(text: str) -> bool:
    """Return whether a text has a digit, or capital letters after the first."""
    return any(each.isdigit() or each.isupper() for each in text[1:])


def merged_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans in order, overlapping ones joined and empty ones left out."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _spans_of(text: str, credentials: set[str]) -> Iterator[tuple[int, int]]:
    """Yield where credentials stand in a text, as they are or encoded."""
    view = text.encode(errors="replace")
    # For each byte of the view and for its end, the character of the text that it comes from.
    begun = accumulate(byte & 0xC0 != 0x80 for byte in view)
    origins: Sequence[int] = range(len(text) + 1)
    if len(view) != len(text):
        origins = [*(count - 1 for count in begun), len(text)]
    exact, encoded = _forms(credentials)
    for _ in range(_DECODINGS + 1):
        for start, end in _occurrences(view, exact, encoded):
            yield origins[start], origins[end]
        if b"%" not in view:
            return
        view, origins = _percent_decoded(view, origins)


def _forms(credentials: set[str]) -> tuple[set[bytes], set[bytes]]:
    """Return the forms of credentials to look for: as they are, and as parts of base64."""
    plain = {each.encode(errors="surrogateescape") for each in credentials}
    for each in list(plain):
        plain |= _within_base64(each)
    exact = set(plain)
    for each in plain:
        text = each.decode(errors="surrogateescape")
        quoted = dumps(text, ensure_ascii=False)[1:-1]
        for one in "&<>":  # as Go's encoding/json writes them
            quoted = quoted.replace(one, f"\\u{ord(one):04x}")
        exact |= {
            each.replace(b" ", b"+"),
            quoted.encode(errors="surrogateescape"),
            dumps(text)[1:-1].encode(),
        }
    encoded = {part for each in plain for part in _base64_parts(each)}
    return exact, encoded


def _within_base64(secret: bytes) -> set[bytes]:
    """Return the password in a credential that is the base64 of ``user:password``, as ``auth``."""
    try:
        _, colon, password = b64decode(secret, validate=True).partition(b":")
    except ValueError:
        return set()
    return {password} if colon and len(password) >= MIN_SECRET else set()


def _base64_parts(secret: bytes) -> Iterator[bytes]:
    """Yield what every base64 of bytes with ``secret`` in them contains, for each alignment."""
    for shift, begin in ((0, 0), (1, 2), (2, 3)):
        whole = (shift + len(secret)) * 8 // 6  # characters that depend on these bytes alone
        for encode in (b64encode, urlsafe_b64encode):
            part = encode(b"\0" * shift + secret)[begin:whole]
            if len(part) >= _MIN_ENCODED:
                yield part


def _occurrences(
    view: bytes, exact: Iterable[bytes], encoded: Iterable[bytes]
) -> Iterator[tuple[int, int]]:
    for form in exact:
        start = view.find(form)
        while start >= 0:
            yield start, start + len(form)
            start = view.find(form, start + len(form))
    for part in encoded:
        end = 0
        start = view.find(part)
        while start >= 0:
            before = _BASE64.match(view[end:start][::-1])
            after = _BASE64.match(view, start)
            assert before is not None
            assert after is not None
            end = after.end()
            yield start - before.end(), end
            start = view.find(part, end)


def _percent_decoded(view: bytes, origins: Sequence[int]) -> tuple[bytes, list[int]]:
    """Return a view percent-decoded once, and the origin of each of its bytes and of its end."""
    decoded = bytearray()
    places: list[int] = []
    done = 0
    for found in _PERCENT.finditer(view):
        start, end = found.span()
        decoded += view[done:start]
        places += origins[done:start]
        decoded.append(int(found[1], 16))
        places.append(origins[start])
        done = end
    decoded += view[done:]
    places += origins[done:]
    return bytes(decoded), places


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the length-delimited fields of an encoded message, as far as it
    is well-formed (protobuf, "Encoding")."""
    at = 0
    read = partial(_varint, data)
    try:
        while at < len(data):
            tag, at = read(at)
            kind = tag & 7
            if kind == 2:
                size, at = read(at)
                if at + size > len(data):
                    return
                yield tag >> 3, data[at : at + size]
                at += size
            elif kind == 0:
                _, at = read(at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                return
    except IndexError:
        return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:
            return value, at
        shift += 7
