"""Regular expressions of the configuration, matched by RE2 in time linear in the text.

Python's ``re`` backtracks, for minutes with an unfortunate expression and text, and holds the
interpreter meanwhile. RE2's syntax (https://github.com/google/re2/wiki/Syntax) has neither
look-around nor back-references.
"""

from collections.abc import Iterator
from typing import Any, Final

MATCHES: Final = 1000
"""Matches of one expression that are found in one text. Each further search could scan the rest of
the text, which would be quadratic: the rest counts as one match."""

GROUP: Final = "secret"
"""The name of the group that restricts a match to a part of it: ``--password=(?P<secret>.+)``,
in place of a look-behind."""


class Pattern(str):
    """A regular expression in RE2's syntax."""

    __slots__ = ()


def parse_pattern(text: str) -> str:
    """Return a valid regular expression. Raises ValueError with a message for the user."""
    Matcher(text)
    return text


class Matcher:
    """Finds the matches of a regular expression."""

    def __init__(self, pattern: str) -> None:
        """Raises ValueError, with a message for the user, if RE2 cannot compile the expression."""
        self._pattern = _compile(pattern)
        if self._pattern.fullmatch(b"") is not None:
            raise ValueError(f"{pattern!r} matches empty text; write x+ for x*")
        self._group = self._pattern.groupindex.get(GROUP.encode(), 0)

    def spans(self, text: bytes) -> Iterator[tuple[int, int]]:
        """Yield the spans of all matches in UTF-8 text, in order, without empty ones.

        The span is that of the group ``secret``, if the expression has one and it took part in the
        match. After MATCHES matches, the rest of the text is the last span.
        """
        for count, match in enumerate(self._pattern.finditer(text)):
            start, end = match.span(self._group)
            if start < 0:
                start, end = match.span()
            if count >= MATCHES:
                end = len(text)
            if start < end:
                yield start, end
            if count >= MATCHES:
                return


def _compile(pattern: str) -> Any:
    import re2  # type: ignore[import-untyped]  # it has no stubs; here, since it costs memory

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(), options)
    except UnicodeEncodeError as error:
        raise ValueError(f"{pattern!r} is not text that UTF-8 can have") from error
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise ValueError(
            f"{pattern!r} is no regular expression: {reason}{_hint(reason)}"
        ) from error


def _hint(reason: str) -> str:
    if reason.startswith("invalid perl operator: (?"):
        return (
            "; RE2 has no look-around: name the part to redact (?P<secret>...), as in"
            " '--password=(?P<secret>.+)'"
        )
    if reason.startswith("invalid escape sequence"):
        return "; RE2 has no back-references, and \\z for \\Z"
    return ""
