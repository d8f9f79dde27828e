"""criproxy support."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from criproxy import __version__
from criproxy.cli.node.support_bundle import command
from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import UsageError
from tests.support.criproxy import Criproxy
from tests.support.waiting import LIMIT_SECONDS

SECRET = "hunter2-Zq81"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def contents(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as files:
        return {
            each.name.removeprefix("criproxy-support/"): files.extractfile(each).read().decode()  # type: ignore[union-attr]
            for each in files.getmembers()
        }


def test_of_a_running_daemon(short_dir: Path) -> None:
    """The archive has every part of a running daemon, and no secret of its configuration or log."""
    rules = short_dir / "rules.d"
    rules.mkdir()
    (rules / "a.yaml").write_text(
        f"# {SECRET}\n- name: key\n  match: {{methods: [Version]}}\n"
        f"""  rewrite: {{metadata: {{add: {{x-key: '"{SECRET}"'}}}}}}\n"""
    )
    log = short_dir / "daemon.log"
    config: dict[str, Any] = {
        "log": {"file": str(log)},
        "rules_dir": "rules.d",
        "audit": {"sinks": [{"otlp": {"headers": {"authorization": SECRET}}}]},
    }
    archive = short_dir / "a.tar.gz"
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime:
        config["listeners"] = [
            {"endpoint": f"unix://{short_dir}/proxy.sock", "runtime": runtime.endpoint}
        ]
        with Criproxy(short_dir, config=config) as proxy:
            with CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
                client.Version()
            proxy.event("call", method="Version")
            with log.open("a") as file:
                file.write(f'{{"event": "x", "message": "GET https://h/?token={SECRET}"}}\n')
            address = proxy.event("metrics")["address"]
            result = run("-c", proxy.file, "-o", archive, "--address", address)
    assert result.exit_code == 0, result.exception
    found = contents(archive)
    assert set(found) - {"logs/journal.txt"} == {
        *("manifest.json", "versions.json", "doctor.json"),
        *("config/check.txt", "config/proxy.yaml", "config/rules.d/a.yaml"),
        *("metrics.txt", "readyz.txt", "calls.json", "rules.json", "logs/daemon.log"),
    }
    assert [name for name, text in found.items() if SECRET in text] == []
    versions = json.loads(found["versions.json"])
    assert versions["criproxy"] == __version__
    assert "criproxy-embedded" in versions["runtimes"][runtime.endpoint]
    assert "msgspec" in versions["packages"]
    assert found["config/check.txt"] == "valid\n"
    assert yaml.safe_load(found["config/proxy.yaml"])["rules_dir"] == "rules.d"
    assert "criproxy_calls_total{" in found["metrics.txt"]
    assert json.loads(found["calls.json"]) == {"calls": []}
    assert '"method": "Version"' in found["logs/daemon.log"].replace('":"', '": "')
    assert "findings" in json.loads(found["doctor.json"])


def test_without_a_daemon_and_with_a_broken_file(tmp_path: Path) -> None:
    """What cannot be had is said and left out; the error of the configuration is in it."""
    file = tmp_path / "config.yaml"
    file.write_text("metrics: {address: null}\nlog: {file: /nowhere/a.log}\n")
    result = run("-c", file, "-o", tmp_path / "a.tar.gz")
    assert result.exit_code == 0
    assert "without metrics.txt: metrics.address is null" in result.output
    assert "without logs/a.log: /nowhere/a.log: No such file" in result.output
    file.write_text("listeners: [{endpont: /a}]\n")
    result = run("-c", file, "-o", tmp_path / "b.tar.gz", "--address", "127.0.0.1:1")
    assert result.exit_code == 0
    assert "endpont: no such key" in contents(tmp_path / "b.tar.gz")["config/check.txt"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-c", "/nowhere.yaml"], "/nowhere.yaml: cannot be read: No such file"),
        (["-o", "/nowhere/a.tar.gz"], "no such directory; name another file with -o"),
        (["--log-size", "9MiB"], "9MiB is not between 1 and 8388608 bytes"),
        (["--log-size", "much"], "'much' is not a size"),
        (["--address", "here"], "--address: "),
    ],
)
def test_errors(arguments: list[str], says: str) -> None:
    """A mistake is one line that names it, with status 2."""
    result = run(*arguments)
    if isinstance(result.exception, UsageError):
        assert says in str(result.exception)
    else:
        assert result.exit_code == 2
        assert says in result.output
