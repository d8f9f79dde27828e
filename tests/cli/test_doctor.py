"""criproxy doctor."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from criproxy.cli.node import doctor
from criproxy.cli.support import options
from criproxy.doctor.findings import Finding, Outcome
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import EndpointError
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import listening

FINE = Finding("sockets", Outcome.OK, "all is well")
UNSURE = Finding("mounts", Outcome.CANNOT_TELL, "what is there", "run it as root")
WRONG = Finding("connections", Outcome.FAIL, "pid 7, /bin/\x1b[2Jx is there", "stop it")


def invoke(*arguments: str, color: bool = False) -> Result:
    return CliRunner().invoke(doctor.command, list(arguments), color=color)


def find(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(
        "criproxy.doctor.examine.examine", lambda *arguments, **options: list(findings)
    )


def test_no_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcomes OK and cannot tell are no findings: status 0."""
    find(monkeypatch, FINE, UNSURE)
    result = invoke("--runtime-endpoint", "/run/x.sock")
    assert (result.exit_code, result.output) == (
        0,
        "OK           sockets: all is well\n"
        "cannot tell  mounts: what is there\n"
        "             -> run it as root\n"
        "no findings\n",
    )


def test_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding ends with status 1; what others wrote cannot steer the terminal."""
    find(monkeypatch, WRONG)
    result = invoke("--runtime-endpoint", "/run/x.sock")
    assert (result.exit_code, result.output) == (
        1,
        "FAIL         connections: pid 7, /bin/\\x1b[2Jx is there\n"
        "             -> stop it\n"
        "1 finding\n",
    )


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes have a colour on a terminal."""
    find(monkeypatch, WRONG)
    assert invoke("--runtime-endpoint", "/run/x.sock", color=True).output.startswith("\x1b[31m")


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """``-o json`` has the same for programs."""
    find(monkeypatch, FINE, WRONG)
    result = invoke("--runtime-endpoint", "/run/x.sock", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "found": 1,
        "findings": [
            {"check": "sockets", "outcome": "OK", "what": "all is well", "mend": None},
            {"check": "connections", "outcome": "FAIL", "what": WRONG.what, "mend": "stop it"},
        ],
    }


def test_wrong_endpoint_is_a_usage_error() -> None:
    """An endpoint that is no unix socket's is the user's mistake."""
    assert isinstance(invoke("--runtime-endpoint", "tcp://h:1").exception, EndpointError)


def test_without_configuration_and_runtime(
    monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    """An empty node can be examined: the report names what is missing."""
    monkeypatch.setattr(options, "_USUAL_CONFIG", short_dir / "absent.yaml")
    monkeypatch.setattr("criproxy.doctor.node.runtimes.WELL_KNOWN", (f"{short_dir}/r.sock",))
    monkeypatch.setattr("criproxy.doctor.checks.sockets.WELL_KNOWN", (f"{short_dir}/r.sock",))
    result = invoke()
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert (
        f"cannot tell  sockets: there is no runtime's socket: not at {short_dir}" in result.output
    )
    assert (
        "cannot tell  listeners: unix:///run/criproxy/criproxy.sock is not there" in result.output
    )


def test_usual_configuration(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    """Without -c, criproxy's usual configuration is read where it exists."""
    usual = short_dir / "c.yaml"
    usual.write_text(f"listeners: [{{endpoint: {short_dir}/p.sock, runtime: {short_dir}/r.sock}}]")
    monkeypatch.setattr(options, "_USUAL_CONFIG", usual)
    assert f"FAIL         listeners: unix://{short_dir}/p.sock is not there" in invoke().output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to see everything")
def test_real_node(short_dir: Path) -> None:
    """For a running criproxy the report has that it answers and that nobody bypasses it."""
    runtime = f"unix://{short_dir}/cri.sock"
    with EmbeddedRuntime(runtime), Criproxy(short_dir, runtime) as criproxy:
        result = invoke("-c", str(criproxy.file), "-o", "json")
    found = {
        (row["check"], row["outcome"], row["what"]) for row in json.loads(result.output)["findings"]
    }
    assert ("connections", "OK", f"nobody but criproxy is connected to {runtime} now") in found
    assert (
        "listeners",
        "OK",
        f"{criproxy.endpoint} (profile full, 0660 root:root) answers",
    ) in found


def test_listener_that_is_dead(short_dir: Path) -> None:
    """A listener's socket that nobody listens on any more is named."""
    (short_dir / "c.yaml").write_text(
        f"listeners: [{{endpoint: {short_dir}/p.sock, runtime: {short_dir}/r.sock}}]\n"
    )
    with listening(short_dir / "p.sock") as left:
        left.close()
        result = invoke("-c", str(short_dir / "c.yaml"))
    assert result.exit_code == 1
    assert f"FAIL         listeners: unix://{short_dir}/p.sock: connection refused" in result.output
