"""The parts of the bundle: configuration, versions, pages of the daemon, logs, findings."""

import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from criproxy import __version__
from criproxy.client.failures import ask_version
from criproxy.common.commit import commit
from criproxy.config.load import LoadedConfig, load
from criproxy.config.rule_compilation import compiled
from criproxy.config.yaml_document import read
from criproxy.cri.text_redaction import redact_text
from criproxy.doctor.examine import examine
from criproxy.doctor.findings import as_rows
from criproxy.doctor.node.runtimes import runtimes_of
from criproxy.doctor.node.system import System
from criproxy.errors import ConfigError, CriproxyError, UnavailableError
from criproxy.relay.endpoints import Endpoint
from criproxy.support_bundle.bundle import Part
from criproxy.support_bundle.redaction import redacted
from criproxy.support_bundle.tail import command_tail, file_tail

PAGES: Final = {
    "metrics.txt": "/metrics",
    "readyz.txt": "/readyz",
    "calls.json": "/calls",
    "rules.json": "/rules",
}
"""The parts that are pages of the daemon."""

JOURNAL_LINES: Final = 20_000
_UNIT: Final = "criproxy.service"
_VERSION_SECONDS: Final = 5.0
"""Deadline of a runtime's Version call."""
_PRODUCT: Final = "criproxy"

Fetch = Callable[[str], bytes]
"""Returns a page of the daemon. Raises UnavailableError."""


def parts(path: Path | None, loaded: LoadedConfig, fetch: Fetch, log_bytes: int) -> Iterator[Part]:
    """Yield all parts.

    ``path`` is the configuration file, if there is one, ``loaded`` what was read from it, or the
    defaults where it cannot be; ``log_bytes`` how many bytes of a log are taken.
    """
    config = loaded.config
    system = System()
    runtimes = runtimes_of(config, system)
    yield Part("versions.json", partial(_versions, runtimes))
    if path is not None:
        yield Part("config/check.txt", partial(_check, path))
        yield Part(f"config/{path.name}", partial(_config_file, path))
        yield from _rule_files(path, loaded)
    for name, page in PAGES.items():
        yield Part(name, partial(fetch, page))
    if config.log.file is not None:
        log = Path(config.log.file)
        yield Part(f"logs/{log.name}", lambda: _redacted_lines(file_tail(log, log_bytes)))
    yield Part("logs/journal.txt", partial(_journal, log_bytes))
    yield Part(
        "doctor.json",
        lambda: _json(as_rows(examine(system, config, runtimes, configured=path is not None))),
    )


def _versions(runtimes: Sequence[Endpoint]) -> bytes:
    return _json(
        {
            "criproxy": __version__,
            "commit": commit(),
            "python": sys.version,
            "executable": sys.executable,
            "kernel": " ".join(platform.uname()),
            "system": _system_name(),
            "packages": dict(_packages()),
            "runtimes": {str(each): _runtime_version(each) for each in runtimes},
        }
    )


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _packages() -> Iterator[tuple[str, str]]:
    """Yield the packages that criproxy requires, and the versions that are installed."""
    try:
        required = importlib.metadata.requires(_PRODUCT) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for each in required:
        requirement, _, condition = each.partition(";")
        if "extra" not in condition:
            name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
            try:
                yield name, importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                yield name, "missing"


def _runtime_version(endpoint: Endpoint) -> str:
    try:
        answer = ask_version(endpoint, "v1", _VERSION_SECONDS)
    except CriproxyError as error:
        return str(error)
    return f"{answer.runtime_name} {answer.runtime_version}, CRI {answer.runtime_api_version}"


def _check(path: Path) -> bytes:
    """Return what ``criproxy check`` would say of the file, without the configuration."""
    try:
        compiled(load(path))
    except ConfigError as error:
        return f"{redact_text(str(error))}\n".encode()
    return b"valid\n"


def _config_file(path: Path) -> bytes:
    return redacted(read(path).value).encode()


def _rule_files(path: Path, loaded: LoadedConfig) -> Iterator[Part]:
    """Yield the files of ``rules_dir``; those that a daemon would read, and no others.

    Where the configuration could not be loaded there are none; config/check.txt has the error.
    """
    files = {each.document.name for each in loaded.rules} - {str(path)}
    for name in sorted(files):
        yield Part(f"config/rules.d/{Path(name).name}", partial(_config_file, Path(name)))


def _journal(limit: int) -> bytes:
    command = ("journalctl", f"--unit={_UNIT}", f"--lines={JOURNAL_LINES}", "--no-pager")
    lines = command_tail((*command, "--output=short-iso-precise", "--quiet"), limit)
    if not lines:
        raise UnavailableError(f"journalctl: there is nothing of {_UNIT} in the journal")
    return _redacted_lines(lines)


def _redacted_lines(data: bytes) -> bytes:
    text = data.decode(errors="replace")
    return "".join(map(redact_text, text.splitlines(keepends=True))).encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()
