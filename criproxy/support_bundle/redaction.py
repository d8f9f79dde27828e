"""Redaction of configuration files: headers, credentials that rules set, and secrets in texts."""

from typing import Any, Final

import yaml

from criproxy.cri.text_redaction import is_secret_name, mark, redact_text

_HEADERS: Final = frozenset({"headers", "metadata"})
"""Keys below which every value is one of a header, which may be a credential."""
_ASSIGNMENTS: Final = frozenset({"request", "response"})
"""Keys of ``rewrite`` with fields and their new values."""
_ENVIRONMENT: Final = "envs"
"""The field of the environment variables of a container, whose names tell nothing."""

_KEEP_OR_DROP: Final = ("keep", "drop")
"""The values of a rule's key ``auth``, which says what happens to credentials."""


def redacted(value: Any) -> str:
    """Return a YAML document, given as its value, as text with marks in place of secrets.

    Replaced are the values of headers, those of keys and fields whose names are those of
    secrets, the environment variables that a rule sets, and what
    :func:`criproxy.cri.text_redaction.redact_text` finds in any text. The names of keys remain.
    """
    return yaml.safe_dump(_plain(value, ()), sort_keys=False, width=100, allow_unicode=True)


def _plain(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each, (*path, str(key))) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, path) for each in value]
    if value is None or isinstance(value, bool):
        return value
    if _is_secret(path) and value not in _KEEP_OR_DROP:
        return mark(len(str(value).encode()))
    return redact_text(value) if isinstance(value, str) else value


def _is_secret(path: tuple[str, ...]) -> bool:
    """Return whether the value at a path of keys is a secret, whatever it is."""
    if not _HEADERS.isdisjoint(path) or any(map(is_secret_name, path)):
        return True
    return not _ASSIGNMENTS.isdisjoint(path) and _ENVIRONMENT in path[-1].split(".")
