"""Regular expressions of the configuration."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.configtypes.patterns import MATCHES, Matcher, parse_pattern

JWT = r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+"


def spans(pattern: str, text: str) -> list[tuple[int, int]]:
    return list(Matcher(pattern).spans(text.encode()))


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        ("[", "'[' is no regular expression: missing ]: ["),
        (
            "(?<=token=)x",
            "'(?<=token=)x' is no regular expression: invalid perl operator: (?<=; RE2 has no"
            " look-around: name the part to redact (?P<secret>...), as in"
            " '--password=(?P<secret>.+)'",
        ),
        (
            r"(a)\1",
            r"'(a)\\1' is no regular expression: invalid escape sequence: \1; RE2 has no"
            r" back-references, and \z for \Z",
        ),
        ("x{2000}", "'x{2000}' is no regular expression: invalid repetition size: {2000}"),
        ("x*", "'x*' matches empty text; write x+ for x*"),
        ("\ud800", "'\\ud800' is not text that UTF-8 can have"),
    ],
)
def test_errors(pattern: str, error: str) -> None:
    """An expression that RE2 cannot compile is an error that says why."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        parse_pattern(pattern)
    assert str(caught.value) == error


def test_adversarial_text() -> None:
    """A prefix that is repeated 80,000 times, without a match, is searched once."""
    assert spans(JWT, "eyJ" * 80_000) == []


@given(st.integers(0, 3))
def test_matches_are_limited(extra: int) -> None:
    """After the limit, the rest is one match: each search could scan the rest of the text."""
    text = "a" * (MATCHES + extra)
    assert len(spans("a.*b|a", text)) == min(MATCHES + 1, len(text))
    assert sum(end - start for start, end in spans("a.*b|a", text)) == len(text)


def test_empty_matches_count() -> None:
    """Empty matches are left out, and count towards the limit."""
    words = "a " * (MATCHES // 2)
    assert spans(r"\b(?:.*z)?", words) == []
    assert spans(r"\b(?:.*z)?", words + "b") == [(len(words), len(words) + 1)]
