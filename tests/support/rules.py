"""Rules from YAML, and calls to evaluate them for."""

from typing import Any

import msgspec
import yaml
from google.protobuf.message import Message

from criproxy.config.value_types import decode
from criproxy.cri.naming import resolve
from criproxy.peers.peer import Peer
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.compiled.ruleset import RuleSet, compile_rules
from criproxy.rules.facts import Facts
from criproxy.rules.image_names import HUB
from criproxy.rules.spec import RuleSpec

KUBELET = Peer(pid=7, uid=0, gid=0, executable="/usr/bin/kubelet")

HELD_BY_A_FILE = """
from pathlib import Path

async def request(call):
    while not (Path(__file__).parent / "gate").exists():
        await call.delay(0.02)
"""
"""A hook's script that has calls waiting until there is a file ``gate`` beside it."""


def specs(text: str) -> list[RuleSpec]:
    """Read a list of rules."""
    return msgspec.convert(yaml.safe_load(text), list[RuleSpec], dec_hook=decode)


def rule_set(text: str, dry_run: bool = False) -> RuleSet:
    """Read and compile a list of rules."""
    return compile_rules(specs(text), dry_run)


def one_rule(methods: str, more: str) -> Rule:
    """Compile a rule with the name ``it``; ``more`` are further keys of its mapping."""
    return rule_set(f"[{{name: it, match: {{methods: [{methods}]}}, {more}}}]").rules[0]


def facts(path: str, request: Message | None = None, **known: Any) -> Facts:
    """Return the facts of a call by a kubelet to containerd."""
    listener = "/run/criproxy/criproxy.sock"
    known = {"listener": listener, "caller": KUBELET, "short_names": HUB, **known}
    return Facts(method_name=resolve(path.encode()), request=request, **known)
