"""Reloads on SIGHUP and on changed files: all rules are replaced, or none."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from criproxy.client import CriClient
from criproxy.config.load import LoadedConfig, load
from criproxy.daemon.supervisor.reload import Reloader
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.observe.logs.log import Log
from tests.support.criproxy import Criproxy
from tests.support.process import Process
from tests.support.process_tree import named
from tests.support.waiting import LIMIT_SECONDS, wait_until

SUCCESS = "criproxy_config_reload_success"
TIMESTAMP = "criproxy_config_reload_timestamp_seconds"


def rule(name: str, where: str | None = None) -> dict[str, Any]:
    match = {"methods": ["RemoveImage"]} | ({"where": where} if where else {})
    return {"name": name, "match": match, "deny": {"message": name}}


class Files:
    """The configuration of a daemon, with rules beside it."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "proxy.yaml"
        self.rules = directory / "rules.d"
        self.rules.mkdir()

    def change(self, **keys: Any) -> None:
        """Change keys of the configuration; the file is replaced in one step."""
        self.put(self.config, yaml.safe_load(self.config.read_text()) | keys)

    def put(self, path: Path, content: Any) -> None:
        """Replace a file in one step, so that no partial file is read."""
        new = self.config.with_suffix(".new")
        new.write_text(yaml.safe_dump(content))
        new.rename(path)


@pytest.fixture
def files(short_dir: Path) -> Files:
    return Files(short_dir)


@pytest.fixture
def ruled(runtime: EmbeddedRuntime, short_dir: Path, files: Files) -> Iterator[Criproxy]:
    """A proxy with a rule in its file and an empty directory of rules."""
    config = {"rules_dir": "rules.d", "rules": [rule("first")]}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        yield proxy


def names(proxy: Criproxy) -> list[str]:
    """The rules in force."""
    return [each["name"] for each in json.loads(proxy.get("/rules")[1])["rules"]]


def await_rules(proxy: Criproxy, *expected: str) -> None:
    wait_until(
        lambda: names(proxy) == [*expected],
        f"rules {expected}",
        report=lambda: proxy.process.stderr,
    )


def test_change_of_the_file(ruled: Criproxy, files: Files) -> None:
    """Rules that are changed in the file are put in force without a signal."""
    assert names(ruled) == ["first"]
    files.change(rules=[rule("second"), rule("third")])
    await_rules(ruled, "second", "third")
    assert ruled.event("rules loaded")["rules"] == 2


def test_file_that_is_written_in_place(ruled: Criproxy, files: Files) -> None:
    """It makes no difference whether the file is replaced, or written over."""
    content = yaml.safe_load(files.config.read_text()) | {"rules": []}
    files.config.write_text(yaml.safe_dump(content))
    await_rules(ruled)


def test_files_of_the_directory(ruled: Criproxy, files: Files) -> None:
    """A file that comes into the directory, changes or goes is noticed as well."""
    file = files.rules / "10.yaml"
    file.write_text(yaml.safe_dump([rule("a")]))
    await_rules(ruled, "first", "a")
    file.write_text(yaml.safe_dump([rule("b")]))
    await_rules(ruled, "first", "b")
    file.unlink()
    await_rules(ruled, "first")


def test_swap_of_a_config_map(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """The files of a ConfigMap change when kubelet swaps the link to their directory."""
    directory = short_dir / "mounted"
    directory.mkdir()

    def publish(version: str, *rules: dict[str, Any]) -> None:
        (directory / version).mkdir()
        (directory / version / "r.yaml").write_text(yaml.safe_dump([*rules]))
        (directory / "..tmp").symlink_to(version)
        (directory / "..tmp").rename(directory / "..data")

    publish("..1", rule("old"))
    (directory / "r.yaml").symlink_to("..data/r.yaml")
    config = {"rules_dir": str(directory)}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        assert names(proxy) == ["old"]
        publish("..2", rule("new"))
        shutil.rmtree(directory / "..1")
        await_rules(proxy, "new")
        publish("..3", rule("newest"))
        shutil.rmtree(directory / "..2")
        await_rules(proxy, "newest")


def test_script_that_changes(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A hook's script is loaded again when it changes."""
    hooks = short_dir / "hooks"
    hooks.mkdir()
    (hooks / "a.py").write_text("async def request(call): pass\n")
    hook = {"script": "hooks/a.py"}
    rules = [{"name": "a", "match": {"methods": ["RemoveImage"]}, "hook": hook}]
    with Criproxy(short_dir, runtime.endpoint, config={"rules": rules}) as proxy:
        (hooks / "a.py").write_text("no Python\n")
        assert "rules[0].hook.script: " in proxy.event("reload failed")["error"]
        (hooks / "a.py").write_text("def response(call): pass\n")
        proxy.event("rules loaded")


def test_bad_file_keeps_the_last_good_one(ruled: Criproxy, files: Files) -> None:
    """A file that cannot be loaded changes nothing; log and metrics report it, with its line."""
    loaded = ruled.metric(TIMESTAMP)
    assert loaded > 0
    assert ruled.metric(SUCCESS) == 1
    files.put(files.rules / "10.yaml", [rule("a"), rule("b", "request.imagee == 1")])
    failed = ruled.event("reload failed")
    assert failed["level"] == "error"
    assert failed["error"].startswith(f"{files.rules}/10.yaml:")
    assert ": [1].match.where: " in failed["error"]
    assert ruled.metric(SUCCESS) == 0
    assert ruled.metric(TIMESTAMP) == loaded
    assert names(ruled) == ["first"]
    (files.rules / "10.yaml").write_text(yaml.safe_dump([rule("a")]))
    await_rules(ruled, "first", "a")
    assert ruled.metric(SUCCESS) == 1
    assert ruled.metric(TIMESTAMP) > loaded


def test_empty_file_keeps_the_last_good_one(ruled: Criproxy, files: Files) -> None:
    """A file that has been cut to nothing does not take the rules away."""
    files.config.write_text("")
    assert "is an empty file" in ruled.event("reload failed")["error"]
    assert ruled.metric(SUCCESS) == 0
    assert names(ruled) == ["first"]


def test_correction_of_a_file_that_was_never_good(ruled: Criproxy, files: Files) -> None:
    """A file that only the bad configuration names is watched, too, until it is corrected."""
    other = files.config.parent / "other"
    other.mkdir()
    (other / "r.yaml").write_text("[")
    files.change(rules_dir="other")
    assert ruled.event("reload failed")["error"].startswith(f"{other}/r.yaml:1: not YAML")
    (other / "r.yaml").write_text(yaml.safe_dump([rule("a")]))
    await_rules(ruled, "first", "a")


def test_signal(ruled: Criproxy) -> None:
    """On SIGHUP everything is read again, even if no file has changed."""
    ruled.process.signal(signal.SIGHUP)
    ruled.event("rules loaded")
    loaded = ruled.metric(TIMESTAMP)
    ruled.process.signal(signal.SIGHUP)
    wait_until(lambda: ruled.metric(TIMESTAMP) > loaded, "second reload")
    assert names(ruled) == ["first"]


def test_signal_opens_the_log_anew(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """On SIGHUP the log file is opened anew, for logrotate."""
    log = short_dir / "c.log"
    config = {"log": {"file": str(log)}}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        proxy.event("ready")
        log.rename(short_dir / "c.log.1")
        proxy.process.signal(signal.SIGHUP)
        proxy.event("rules loaded")


def test_keys_beside_the_rules(ruled: Criproxy, files: Files) -> None:
    """A change of other keys is applied as well, together with the rules, and named."""
    log = yaml.safe_load(files.config.read_text())["log"]
    files.change(
        log=log | {"level": "info", "methods": {"Version": "off"}},
        limits={"streams": 5},
        rules=[rule("second")],
    )
    loaded = ruled.event("configuration loaded")
    assert loaded["keys"] == ["log.level", "log.methods", "limits.streams", "rules"]
    await_rules(ruled, "second")


def test_log_is_moved(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """After a reload that names another log file, every line is written there: of the reload, of
    workers that end, and of the next reload that fails."""
    first, second = short_dir / "first.log", short_dir / "second.log"
    config = {"log": {"file": str(first)}}
    with Criproxy(short_dir, runtime.endpoint, config=config) as proxy:
        proxy.event("ready")
        proxy.reload(log={"file": str(second)})

        def written(event: str) -> bool:
            return second.exists() and f'"event":"{event}"' in second.read_text()

        wait_until(lambda: written("configuration loaded"), "the reload")
        proxy.reload(limits={"streams": 0})
        wait_until(lambda: written("reload failed"), "the failed reload")
        os.kill(named(proxy.process.pid, "criproxy:full"), signal.SIGKILL)
        wait_until(lambda: written("worker ended"), "the end of the worker")
        wait_until(lambda: written("worker started"), "the start of the worker")
    assert "reload failed" not in first.read_text()


def test_options_are_no_change(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """What options say differs from the file from the start, and is no reason to warn."""
    file = short_dir / "c.yaml"
    file.write_text("log: {format: console}\nmetrics: {address: null}\n")
    options = ["--listen", f"{short_dir}/p.sock", "--runtime-endpoint", runtime.endpoint]
    options += ["--log-format", "json", "-c", str(file)]
    with Process([sys.executable, "-m", "criproxy", "run", *options], output=short_dir / "p") as p:
        wait_until(lambda: '"ready"' in p.stderr, "ready", report=lambda: p.stderr)
        p.signal(signal.SIGHUP)
        wait_until(lambda: '"rules loaded"' in p.stderr, "reload", report=lambda: p.stderr)
        assert p.stop() == 0
        assert "restart" not in p.stderr


@pytest.mark.parametrize("file", [[], ["-c", "/dev/null"]])
def test_without_a_file(runtime: EmbeddedRuntime, short_dir: Path, file: list[str]) -> None:
    """Without a file that can be read again nothing is reloaded, as SIGHUP has it say."""
    options = ["--listen", f"{short_dir}/p.sock", "--runtime-endpoint", runtime.endpoint]
    options += ["--log-format", "json", "--metrics-address", "127.0.0.1:0", *file]
    with Process([sys.executable, "-m", "criproxy", "run", *options], output=short_dir / "p") as p:
        wait_until(lambda: '"ready"' in p.stderr, "ready", report=lambda: p.stderr)
        p.signal(signal.SIGHUP)
        wait_until(lambda: "nothing to reload" in p.stderr, "word", report=lambda: p.stderr)
        assert p.stop() == 0


def test_bad_rules_at_the_start(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A daemon does not start with rules that it cannot load: one line, status 2."""
    config = {"rules": [rule("first", "request.imagee == 1")]}
    status, said = Criproxy(short_dir, runtime.endpoint, config=config).fails()
    assert status == 2
    assert said.startswith(f"criproxy: {short_dir}/proxy.yaml:")
    assert ": rules[0].match.where: " in said
    assert said.count("\n") == 1


def test_systemd_is_told(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """systemd hears when a reload begins, at what time, and when it is over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(short_dir / "notify"))
        systemd.settimeout(LIMIT_SECONDS)
        env = {"NOTIFY_SOCKET": str(short_dir / "notify")}
        with Criproxy(short_dir, runtime.endpoint, env=env) as proxy:
            assert systemd.recv(100) == f"MAINPID={proxy.process.pid}\nREADY=1".encode()
            proxy.process.signal(signal.SIGHUP)
            reloading, _, when = systemd.recv(100).decode().partition("\n")
            assert reloading == "RELOADING=1"
            assert int(when.removeprefix("MONOTONIC_USEC=")) > 0
            assert systemd.recv(100) == b"READY=1"


def test_stops_while_it_watches(ruled: Criproxy) -> None:
    """The watch of the files does not keep the daemon from ending well."""
    assert ruled.stop() == 0
    assert "Traceback" not in ruled.process.stderr


def test_calls_pass_without_rules(proxy: Criproxy) -> None:
    """Without rules none are listed."""
    assert json.loads(proxy.get("/rules")[1]) == {"rules": []}
    with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
        assert client.Version().runtime_name


def test_fault_of_ours(tmp_path: Path) -> None:
    """An exception of ours in a reload is reported, and does not end reloading."""
    path = tmp_path / "c.yaml"
    path.write_text("{}")
    applied: list[list[str]] = []
    results: list[bool] = []

    async def apply(loaded: LoadedConfig, keys: list[str]) -> None:
        applied.append(keys)
        if len(applied) == 1:
            raise RuntimeError("ours")

    lines = structlog.testing.CapturingLogger()
    log: Log = structlog.wrap_logger(
        lines, wrapper_class=structlog.make_filtering_bound_logger(0), processors=[_fields]
    )

    async def reload_twice() -> None:
        reloader = Reloader(load(path), apply, results.append, log)
        await reloader.reload()
        await reloader.reload()

    asyncio.run(reload_twice())
    assert results == [True, False, True]
    (failed,) = lines.calls
    assert failed.kwargs["event"] == "reload failed"
    assert isinstance(failed.kwargs["exc_info"], RuntimeError)


def _fields(
    logger: object, name: str, event: structlog.typing.EventDict
) -> tuple[tuple[()], structlog.typing.EventDict]:
    return (), event
