"""criproxy bypass."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from criproxy.cli.daemon.bypass import command
from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UsageError
from criproxy.relay import endpoints
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import listening_pid
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    """A runtime that answers."""
    with EmbeddedRuntime(f"unix://{short_dir}/runtime.sock") as runtime:
        yield runtime


def written(directory: Path, runtime: EmbeddedRuntime, **more: Any) -> Path:
    """A configuration with a full and a read-only listener; ``more`` is of the full one."""
    listeners = [
        {"endpoint": f"unix://{directory}/proxy.sock", "runtime": runtime.endpoint} | more,
        {
            "endpoint": f"unix://{directory}/scoped.sock",
            "runtime": runtime.endpoint,
            "profile": "read-only",
        },
    ]
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump({"listeners": listeners}))
    return file


def run(name: str, file: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a command; return its exit status and what it says of each listener."""
    result = invoke(name, file, "-o", "json", *options)
    return result.exit_code, json.loads(result.output)["listeners"]


def invoke(name: str, file: Path, *options: str) -> Result:
    return CliRunner().invoke(command, [name, "-c", str(file), *options])


def test_full_listeners_are_bypassed_and_others_never(
    runtime: EmbeddedRuntime, short_dir: Path
) -> None:
    """Clients of a listener with a profile would get the runtime's rights: it is left alone."""
    file = written(short_dir, runtime)
    assert run("status", file)[0] == 0
    status, (full, scoped) = run("on", file)
    assert status == 0
    assert (full["bypass"], full["note"]) == ("on", None)
    assert (scoped["bypass"], scoped["note"]) == (
        "off",
        "the profile read-only restricts its clients",
    )
    assert not (short_dir / "scoped.sock").exists()
    with CriClient(f"unix://{short_dir}/proxy.sock", timeout=LIMIT_SECONDS) as client:
        assert client.Version().runtime_name == "criproxy-embedded"
    assert run("status", file)[0] == 1
    assert run("off", file) == (0, run("status", file)[1])
    assert not (short_dir / "proxy.sock").is_symlink()


@pytest.mark.parametrize("more", [{"allow": {"uid": [0]}}, {"image": "unix:///run/images.sock"}])
def test_a_listener_that_is_more_than_its_runtime(
    more: dict[str, Any], runtime: EmbeddedRuntime, short_dir: Path
) -> None:
    """A listener that restricts its clients, or has two upstreams, is no link to one of them."""
    file = written(short_dir, runtime, **more)
    status, rows = run("on", file)
    assert (status, [row["bypass"] for row in rows]) == (0, ["off", "off"])
    named = invoke("on", file, "--listener", f"unix://{short_dir}/proxy.sock").exception
    assert isinstance(named, UsageError)
    assert "cannot be bypassed" in str(named)


def test_an_unknown_listener_is_a_usage_error(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """The error names the listeners that there are."""
    error = invoke("on", written(short_dir, runtime), "--listener", "/elsewhere.sock").exception
    assert isinstance(error, UsageError)
    assert f"unix://{short_dir}/proxy.sock" in str(error)


def test_a_runtime_that_is_gone(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Nothing is changed, the note says why, and the status is 1."""
    file = written(short_dir, runtime)
    runtime.stop()
    status, (full, _) = run("on", file)
    assert (status, full["bypass"]) == (1, "off")
    assert "nobody listens" in full["note"]


def test_while_the_daemon_runs(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Clients that connect reach the runtime without the daemon, and then the daemon again."""
    with Criproxy(short_dir, runtime.endpoint) as proxy:
        assert listening_pid(proxy.path) == proxy.process.pid
        assert invoke("on", proxy.file).exit_code == 0
        assert listening_pid(proxy.path) == os.getpid()
        assert invoke("off", proxy.file).exit_code == 0
        assert listening_pid(proxy.path) == proxy.process.pid
        with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
            assert client.Version().runtime_name == "criproxy-embedded"


def test_text_is_a_table(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """Without -o json it prints a row for each listener."""
    lines = invoke("status", written(short_dir, runtime)).output.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["LISTENER", "BYPASS"],
        [f"unix://{short_dir}/proxy.sock", "off"],
        [f"unix://{short_dir}/scoped.sock", "off"],
    ]


def test_a_runtime_that_is_found(
    runtime: EmbeddedRuntime, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``runtime`` the bypass leads to the runtime that is found, and is recognized and
    ended when that is gone."""
    places = (runtime.endpoint.removeprefix("unix://"),)
    monkeypatch.setattr(endpoints, "WELL_KNOWN", places)
    monkeypatch.setattr(endpoints, "find_runtime", partial(endpoints.find_runtime, places))
    file = short_dir / "config.yaml"
    file.write_text(yaml.safe_dump({"listeners": [{"endpoint": f"unix://{short_dir}/proxy.sock"}]}))
    on = {"bypass": "on", "runtime": runtime.endpoint}
    assert on.items() <= run("on", file)[1][0].items()
    runtime.stop()
    assert on.items() <= run("status", file)[1][0].items()
    status, (row,) = run("off", file)
    assert (status, row["bypass"], row["runtime"]) == (0, "off", None)
