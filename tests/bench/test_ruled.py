"""The contenders that act on calls, and the answers that are right through them."""

from pathlib import Path

import pytest
import yaml

from bench import criproxy_config, version
from bench.contenders import EVERYTHING_ON, Setup
from bench.load import Call
from bench.ruled import RULED, WITH_RULES, longer_answer, unmatched
from bench.wire import prefixed
from criproxy.config.load import load
from criproxy.cri.pb.runtime_v1_pb2 import VersionResponse
from criproxy.rules.compiled.ruleset import compile_rules


def test_the_unmatched_rules_are_twenty_for_other_methods() -> None:
    """None of the rules that must not match is for the method of the load; names are unique."""
    rules = unmatched()
    assert len({rule["name"] for rule in rules}) == len(rules) == 20
    assert all("Version" not in rule["match"]["methods"] for rule in rules)


CRIPROXIES = [which for which in RULED if which.name in (EVERYTHING_ON, *WITH_RULES)]


@pytest.mark.parametrize("which", CRIPROXIES, ids=lambda which: which.name)
def test_rules_are_all_that_differs(which, tmp_path: Path) -> None:
    """A criproxy with rules is configured as the one without, and has rules besides."""
    setup = Setup(tmp_path, tmp_path / "l.sock", tmp_path / "u.sock")
    which.arguments(setup)
    config = yaml.safe_load((tmp_path / criproxy_config.FILE).read_text())
    assert bool(config.pop("rules", None)) is (which.name in WITH_RULES)
    assert sorted(config) == ["listeners", "log", "metrics"]
    assert config["log"]["level"] == "debug"


@pytest.mark.parametrize("which", CRIPROXIES, ids=lambda which: which.name)
def test_the_rules_are_valid(which, tmp_path: Path) -> None:
    """What is written for a criproxy is a configuration whose rules compile."""
    which.arguments(Setup(tmp_path, tmp_path / "l.sock", tmp_path / "u.sock"))
    specs = [placed.spec for placed in load(tmp_path / criproxy_config.FILE).rules]
    assert bool(specs) is (which.name in WITH_RULES)
    assert len(compile_rules(specs, False).rules) == len(specs)


def test_a_right_answer_is_what_the_rules_make_of_it() -> None:
    """A rewritten response is the runtime's, one field longer; a denied call has a status."""
    answer = prefixed(VersionResponse(version="1", runtime_version="2").SerializeToString())
    longer = longer_answer(Call(version.PATH, answer=answer)).answer
    assert longer is not None
    message = VersionResponse.FromString(longer[5:])
    assert (message.version, message.runtime_version) == ("1", f"2{version.SUFFIX}")
    assert longer_answer(Call(version.PATH)).answer is None
    expected = {which.name: which.expected(Call(version.PATH, answer=answer)) for which in RULED}
    assert expected["criproxy-deny"] == Call(version.PATH, answer=b"", status=7)
    assert expected["criproxy-abort-100"] == expected["envoy-abort-100"]
    assert expected["criproxy-request"].answer == answer
