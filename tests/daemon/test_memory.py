"""What each process of a daemon has in memory: only what its configuration needs."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.process_tree import descendants, named
from tests.support.waiting import LIMIT_SECONDS

PROTOBUF = "google/_upb"
CEL = "cel_expr_python"
DENY = {"name": "deny", "match": {"methods": ["RemoveImage"]}, "deny": {}}
WHERE = {"match": {"methods": ["RemoveImage"], "where": "request.image.image == 'a'"}}


def libraries(proxy: Criproxy) -> dict[str, set[str]]:
    """By process, which of the large libraries it has mapped; hook runners are processes, too."""
    found = {"supervisor": proxy.process.pid}
    found |= {name: pid for pid, name in descendants(proxy.process.pid).items()}
    maps = {name: Path(f"/proc/{pid}/maps").read_text() for name, pid in found.items()}
    return {name: {each for each in (PROTOBUF, CEL) if each in maps[name]} for name in maps}


@pytest.mark.parametrize(
    ("rules", "loaded"),
    [([], set()), ([DENY], {PROTOBUF}), ([DENY | WHERE], {PROTOBUF, CEL})],
    ids=["none", "without-expressions", "with-expressions"],
)
def test_rules(
    runtime: EmbeddedRuntime, short_dir: Path, rules: list[Any], loaded: set[str]
) -> None:
    """Only rules need protobuf, and only their expressions CEL. Both are loaded before the spawner
    is forked, so that all processes share them, and it has no thread afterwards."""
    with Criproxy(short_dir, runtime.endpoint, config={"rules": rules}) as proxy:
        call(proxy.endpoint)
        assert libraries(proxy) == {
            "supervisor": loaded,
            "criproxy:spawn": loaded,
            "criproxy:full": loaded,
        }
        spawner = named(proxy.process.pid, "criproxy:spawn")
        assert len(os.listdir(f"/proc/{spawner}/task")) == 1


def test_optional_packages() -> None:
    """The daemon loads no package that another command brought: structlog would take rich."""
    modules = "sorted({each.partition('.')[0] for each in sys.modules if sys.modules[each]})"
    code = f"import sys, criproxy.daemon.supervisor.supervisor; print(*{modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "structlog" in loaded
    assert not loaded & {"better_exceptions", "colorama", "google", "grpc", "pygments", "rich"}
    import rich  # installed, and importable by whoever needs it

    assert rich.get_console() is not None


def test_audit_log_and_scoped_listeners(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Profiles and an audit log need protobuf alone."""
    listeners: list[Mapping[str, Any]] = [
        {
            "endpoint": f"unix://{short_dir}/{name}.sock",
            "runtime": runtime.endpoint,
            "profile": profile,
        }
        for name, profile in (("proxy", "full"), ("ro", "read-only"), ("im", "images-only"))
    ]
    sinks = [{"file": {"path": str(short_dir / "audit.jsonl")}}]
    config = {"listeners": listeners, "audit": {"sinks": sinks}}
    with Criproxy(short_dir, config=config) as proxy:
        for each in listeners:
            call(each["endpoint"])
        children = {f"criproxy:{name}" for name in ("spawn", "audit", "full", "ro", "im")}
        assert libraries(proxy) == {key: {PROTOBUF} for key in ("supervisor", *children)}


def call(endpoint: str) -> None:
    with CriClient(endpoint, timeout=LIMIT_SECONDS) as client:
        assert client.Version().runtime_name
