"""The contenders with an audit log, and the reading of their logs."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench import criproxy_config
from bench.audited import AUDITED, DEFAULT, EVERYTHING, KUBELET, RECORDS, TRACES, TRACES_AND_CAPTURE
from bench.contenders import EVERYTHING_ON, Contender, Setup
from bench.criproxy_config import FILE, AuditCounts, recorded
from criproxy.audit.policy import AuditPolicy
from criproxy.config.load import load
from criproxy.config.schema import Config
from criproxy.cri.naming import resolve
from criproxy.peers.peer import Connection, Peer

CRIPROXIES = [which for which in AUDITED if which.name in (EVERYTHING_ON, *RECORDS)]


def configuration(which: Contender, directory: Path) -> Config:
    which.arguments(Setup(directory, directory / "l.sock", directory / "u.sock"))
    return load(directory / FILE).config


@pytest.mark.parametrize("which", CRIPROXIES, ids=lambda which: which.name)
def test_an_audit_log_is_all_that_differs(which: Contender, tmp_path: Path) -> None:
    """An audited criproxy is configured as the one without, with one file, synced at intervals."""
    config = configuration(which, tmp_path)
    assert config.log.level == "debug"
    if which.name == EVERYTHING_ON:
        assert config.audit is None
        return
    assert config.audit is not None
    [sink] = config.audit.sinks
    assert sink.file is not None
    assert (sink.file.fsync, sink.file.rotate.keep) == ("interval", None)
    assert (config.audit.policy is None) is (which.name != EVERYTHING)
    extra = {"kubelet"} if which.name == KUBELET else set()
    written = yaml.safe_load((tmp_path / FILE).read_text())
    assert written.keys() == {"listeners", "log", "metrics", "audit"} | extra


@pytest.mark.parametrize(
    ("name", "level"), [(KUBELET, "None"), (DEFAULT, "Request"), (EVERYTHING, "RequestResponse")]
)
def test_each_policy_records_what_its_name_says(name: str, level: str, tmp_path: Path) -> None:
    """Of the load's call nothing is recorded, its request, or everything; as RECORDS has it."""
    [which] = [one for one in CRIPROXIES if one.name == name]
    audit = configuration(which, tmp_path).audit
    assert audit is not None
    peer = Peer(pid=1, uid=0, gid=0, executable="/usr/bin/python3", kubelet=name == KUBELET)
    policy = AuditPolicy(audit.policy)
    version = resolve(b"/runtime.v1.RuntimeService/Version")
    assert policy.max_level(version, Connection("l", peer, 0.0)) == level
    assert RECORDS[name] is (level != "None")


def test_traces_are_all_that_differs(tmp_path: Path) -> None:
    """The criproxy with traces is configured as the one without, and samples a tenth of them."""
    [which] = [one for one in AUDITED if one.name == TRACES]
    config = configuration(which, tmp_path)
    assert config.traces is not None
    assert config.traces.sampling.ratio == 0.1
    written = yaml.safe_load((tmp_path / FILE).read_text())
    assert written.keys() == {"listeners", "log", "metrics", "traces"}


def test_a_capture_besides_is_all_that_differs(tmp_path: Path) -> None:
    """So is the one that also captures, and keeps 32 MiB in memory."""
    [which] = [one for one in AUDITED if one.name == TRACES_AND_CAPTURE]
    config = configuration(which, tmp_path)
    assert config.traces is not None
    assert config.capture is not None
    assert (config.capture.ring, len(config.capture.triggers)) == (32 << 20, 1)
    written = yaml.safe_load((tmp_path / FILE).read_text())
    assert written.keys() == {"listeners", "log", "metrics", "traces", "capture"}


METRICS = """\
# TYPE criproxy_calls counter
criproxy_calls_total{method="Version"} 12.0
# TYPE criproxy_audit_records counter
criproxy_audit_records_total{sink="file"} 10.0
# TYPE criproxy_audit_dropped counter
criproxy_audit_dropped_total{sink="file",reason="intake_full"} 3.0
criproxy_audit_dropped_total{sink="file",reason="closing"} 0.0
"""
COMPLETE = b'{"kind":"Event","stage":"ResponseComplete"}\n'


def test_records_are_counted_in_all_files(
    tmp_path: Path, serve_metrics: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of ended calls in any file count; records of other stages and kinds do not."""
    monkeypatch.setattr(criproxy_config, "AUDIT_SECONDS", 0.0)
    (tmp_path / FILE).write_text(yaml.safe_dump({"metrics": {"address": serve_metrics(METRICS)}}))
    log = tmp_path / criproxy_config.AUDIT_LOG
    log.write_bytes(COMPLETE * 4 + b'{"kind":"Dropped","count":3}\n')
    aside = log.with_name(f"{log.name}.00000001-20260101T000000Z.gz")
    aside.write_bytes(gzip.compress(COMPLETE * 5 + b'{"stage":"RequestReceived"}\n'))
    found = recorded(tmp_path, True)
    assert found == AuditCounts(calls=12, wanted=12, records=9, dropped={"intake_full": 3})
    assert found.adds_up
    none = recorded(tmp_path, False)
    assert (none.wanted, none.adds_up) == (0, False)


@pytest.mark.parametrize(
    ("records", "dropped", "adds_up"),
    [(10, {}, True), (7, {"a": 3}, True), (9, {}, False), (11, {}, False), (8, {"a": 3}, False)],
)
def test_a_record_is_there_or_known_to_be_dropped(
    records: int, dropped: dict[str, int], adds_up: bool
) -> None:
    """What is recorded and what is dropped make all the calls; one too many is as wrong."""
    assert AuditCounts(10, 10, records, dropped).adds_up is adds_up
