"""Runs code in a process that a test starts, before its own, and in those that it starts."""

from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def customized(directory: Path, code: str) -> Mapping[str, str]:
    """Return the environment in which Python runs ``code`` at its start (the module `site`)."""
    place = directory / "customized"
    place.mkdir()
    (place / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{place}:{_ROOT}"}
