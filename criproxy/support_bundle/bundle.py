"""The archive: a gzipped tar of parts, each of limited size, with a manifest of what is in it."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from criproxy.common.output_file import create
from criproxy.cri.text_redaction import redact_text
from criproxy.errors import CriproxyError, UnavailableError, UsageError

PART_LIMIT: Final = 8 << 20
"""Bytes of one part; what is longer is cut."""
_MODE: Final = 0o600
"""The permissions of the files in the archive: they tell about the node."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the archive. ``content`` raises CriproxyError if it cannot be had."""

    name: str
    content: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the parts with their sizes in bytes, and the errors of those missing."""

    sizes: dict[str, int]
    missing: dict[str, str]


def write(path: Path, parts: Iterable[Part], now: datetime | None = None) -> Written:
    """Write an archive with the parts that there are, and a manifest.json of all.

    A part that cannot be had is left out, and its error is in the manifest. Raises UsageError if
    the file exists, or its directory does not, and UnavailableError if it cannot be written;
    then there is no file.
    """
    now = now or datetime.now(UTC)
    try:
        descriptor = create(path, "exists already; name another file with -o")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such directory; name another file with -o") from None
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            return _fill(archive, parts, now)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UnavailableError(f"{path}: {error.strerror or error}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _fill(archive: tarfile.TarFile, parts: Iterable[Part], now: datetime) -> Written:
    entries: list[dict[str, Any]] = []
    written = Written({}, {})
    for part in parts:
        try:
            content = part.content()
        except Exception as error:
            # A fault of ours in one part must not cost the others.
            kind = "" if isinstance(error, CriproxyError) else f"{type(error).__name__}: "
            written.missing[part.name] = redact_text(f"{kind}{error}")
            entries.append({"name": part.name, "missing": written.missing[part.name]})
            continue
        kept = content[:PART_LIMIT]
        entries.append({"name": part.name, "bytes": len(kept), "cut": len(kept) < len(content)})
        _add(archive, part.name, kept, now)
        written.sizes[part.name] = len(kept)
    manifest = json.dumps({"created": now.isoformat(), "parts": entries}, indent=2)
    _add(archive, "manifest.json", manifest.encode(), now)
    return written


def _add(archive: tarfile.TarFile, name: str, content: bytes, now: datetime) -> None:
    entry = tarfile.TarInfo(f"criproxy-support/{name}")
    entry.size = len(content)
    entry.mtime = int(now.timestamp())
    entry.mode = _MODE
    archive.addfile(entry, io.BytesIO(content))
