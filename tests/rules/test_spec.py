import subprocess
import sys
from typing import get_args

import msgspec
import pytest

from criproxy.rules.spec import Code
from criproxy.wire.grpc import StatusCode
from tests.support.rules import specs

HEAD = "name: it, match: {methods: ['*']}"


@pytest.mark.parametrize(
    "rule",
    [
        "delay: {fixed: 2s, jitter: 500ms, percentage: 10, when: after, seed: 3}",
        "delay: {percentiles: {p50: 10ms, p99.9: 2s, p100: 2s}}",
        "fault: {code: UNAVAILABLE, times: 20, for: 10m, i_know: false}",
        "fault: {code: UNIMPLEMENTED, i_know: true}",
        "fault: {hang: true, percentage: 0}",
        "fault: {code: INTERNAL, message: x, cut_after: 0}",
        "fault: {drop: 'true', times: 1}",
        "deny: {}",
        "hook: {script: a.py}",
        "hook: {url: 'http://127.0.0.1:1/x', timeout: 3s, may_deny: true}, on_error: pass",
        "limit: {in_flight: 3, per: pod, queue: 0, wait: 5m}",
        "rewrite: {request: {a: null, b: true, c: 5, d: 1.5, e: text}}",
        "rewrite: {metadata: {add: {x-a: method}}}, continue: true, mode: dry-run",
    ],
)
def test_every_key_is_accepted(rule: str) -> None:
    """Every key of a rule is accepted."""
    (spec,) = specs(f"[{{{HEAD}, {rule}}}]")
    assert getattr(spec, spec.action) is not None


UNIMPLEMENTED = (
    "a kubelet that sees UNIMPLEMENTED once on a Stream* call stops using them until it"
    " restarts; take UNAVAILABLE, or add i_know: true"
)
ONE_OF = (
    "a rule has exactly one of rewrite, rewrite_images, delay, fault, deny, hook, limit; this has"
)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("mode: enforce", f"{ONE_OF} none - at `$[0]`"),
        (
            "deny: {}, delay: {fixed: 1s}",
            f"{ONE_OF} delay and deny; take two rules, the first with continue: true - at `$[0]`",
        ),
        ("deny: {code: OK}", "Invalid enum value 'OK' - at `$[0].deny.code`"),
        ("deny: {code: UNIMPLEMENTED}", f"{UNIMPLEMENTED} - at `$[0].deny`"),
        ("fault: {code: UNIMPLEMENTED}", f"{UNIMPLEMENTED} - at `$[0].fault`"),
        ("fault: {}", "fault needs a code, like UNAVAILABLE, or hang, or drop - at `$[0].fault`"),
        (
            "fault: {cut_after: 3}",
            "fault needs a code, like UNAVAILABLE, or hang, or drop - at `$[0].fault`",
        ),
        (
            "fault: {hang: true, drop: 'true'}",
            "fault takes one of hang, cut_after and drop - at `$[0].fault`",
        ),
        (
            "fault: {hang: true, code: INTERNAL}",
            "hang and drop take no code and no message: nothing is answered - at `$[0].fault`",
        ),
        (
            "fault: {code: INTERNAL, percentage: 101}",
            "Expected `float` <= 100.0 - at `$[0].fault.percentage`",
        ),
        ("fault: {code: INTERNAL, times: 0}", "Expected `int` >= 1 - at `$[0].fault.times`"),
        ("deny: {}, auth: keep", "auth: keep is for rewrite, rewrite_images and hook - at `$[0]`"),
        ("delay: {}", "delay takes either fixed or percentiles - at `$[0].delay`"),
        (
            "delay: {fixed: 1s, percentiles: {p50: 1s}}",
            "delay takes either fixed or percentiles - at `$[0].delay`",
        ),
        (
            "delay: {percentiles: {}}",
            "percentiles has to name at least one: {p50: 10ms, p99: 2s} - at `$[0].delay`",
        ),
        (
            "delay: {percentiles: {p101: 1s}}",
            "'p101' is no percentile; write it like p50 or p99.9 - at `$[0].delay`",
        ),
        (
            "delay: {percentiles: {p50: 2s, p99: 1s}}",
            "percentiles have to rise: no higher one is shorter than a lower one - at `$[0].delay`",
        ),
        ("delay: {fixd: 1s}", "Object contains unknown field `fixd` - at `$[0].delay`"),
        ("hook: {}", "hook takes either script or url - at `$[0].hook`"),
        ("hook: {script: a, timeout: 0s}", "timeout has to be more than 0 - at `$[0].hook`"),
        ("limit: {in_flight: 0}", "Expected `int` >= 1 - at `$[0].limit.in_flight`"),
        (
            "rewrite: {}",
            "rewrite has to set something in request, response or metadata - at `$[0].rewrite`",
        ),
        (
            "rewrite_images: []",
            "rewrite_images has to have at least one pair of from and to - at `$[0]`",
        ),
        (
            "rewrite: {metadata: {add: {X: a}}}",
            "'X' is no name of a header: lower-case letters, digits, _ . and - - at"
            " `$[0].rewrite.metadata`",
        ),
        (
            "rewrite: {metadata: {add: {grpc-timeout: a}}}",
            "'grpc-timeout' is gRPC's own header, which rules leave alone - at"
            " `$[0].rewrite.metadata`",
        ),
    ],
)
def test_invalid_rules(rule: str, error: str) -> None:
    """An error in a rule names its path and how to correct it."""
    with pytest.raises(msgspec.ValidationError) as caught:
        specs(f"[{{{HEAD}, {rule}}}]")
    assert str(caught.value) == error


def test_names_and_methods_are_required() -> None:
    """A rule without a name, or without a method, is an error."""
    for text, error in (
        ("{name: '', match: {methods: ['*']}, deny: {}}", "name has to be printable text"),
        ("{name: a, match: {methods: []}, deny: {}}", "methods has to name at least one"),
        ("{name: a, match: {methods: ['*'], listeners: []}, deny: {}}", "listeners has to name"),
    ):
        with pytest.raises(msgspec.ValidationError, match=error):
            specs(f"[{text}]")


def test_codes_are_those_of_grpc() -> None:
    """The codes of a rule are gRPC's, except OK."""
    assert set(get_args(Code)) == {code.name for code in StatusCode} - {"OK"}


def test_spec_errors_and_facts_do_not_import_protobuf_or_cel() -> None:
    """A daemon without rules does not load protobuf and CEL."""
    code = (
        "import sys, criproxy.rules.spec, criproxy.rules.errors, criproxy.rules.facts;"
        "sys.exit(any(n.startswith(('google.protobuf', 'cel_expr')) for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
