"""The rules that are shown, on the recorded calls of a kubelet."""

from collections import Counter
from contextlib import suppress

from criproxy.config.load import parse
from criproxy.cri.messages import request_class
from criproxy.cri.methods import METHODS
from criproxy.cri.naming import resolve
from criproxy.peers.peer import Peer
from criproxy.rules.compiled.ruleset import RuleSet, compile_rules
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.reading.connection import CallEnded, ConnectionReader
from criproxy.wire.reading.message_capture import CaptureLimits
from tests.docs.pages import ROOT
from tests.docs.test_examples import RULES
from tests.support.captures import capture

KUBELET = Peer(7, 0, 0, "/usr/bin/kubelet", kubelet=True)
LIMITS = CaptureLimits(1 << 24, 1 << 24)


def recorded(name: str) -> list[tuple[str, bytes]]:
    """Return the paths and requests of a recorded connection."""
    reader = ConnectionReader(select_capture=lambda path: LIMITS)
    calls = []
    for sent in capture(name):
        for event in reader.receive(sent.side, sent.data, sent.now) if sent.data else ():
            if isinstance(event, CallEnded) and (kept := event.call.capture) is not None:
                assert kept.request is not None
                for data, _ in kept.request.messages:
                    calls.append((event.call.path.decode(), data))
    return calls


def matched(ruleset: RuleSet, name: str) -> Counter[str]:
    """Return how many recorded calls each rule matches, by its name."""
    found: Counter[str] = Counter()
    for path, data in recorded(name):
        method, cache = METHODS[path], PodCache()
        request = request_class(method).FromString(data)
        pod, container = cache.find(resolve(path.encode()), request, trusted=True)
        image = cache.image(request, container, trusted=True)
        facts = Facts(
            resolve(path.encode()), "kubelet", KUBELET, {}, request, pod, container, image
        )
        rules = ruleset.rules_for(path.encode())
        for rule in rules.rules if rules is not None else ():
            with suppress(EvaluationError):  # pods of before the recording are unknown
                found[rule.name] += rule.matches(facts)
    return found


def shown(text: str, registry: str) -> RuleSet:
    return compile_rules(parse(text.replace("registry.corp", registry), "rules.yaml").rules)


def test_unsigned_images_alone_are_denied() -> None:
    """``only-signed`` denies a kubelet's containers by the registry of their image."""
    for text in (RULES, "rules:\n" + (ROOT / "deploy/rules.example.yaml").read_text()):
        assert matched(shown(text, "registry.k8s.io"), "kubelet-01")["only-signed"] == 1
        assert matched(shown(text, "127.0.0.1:5999"), "kubelet-01")["only-signed"] == 4
        assert matched(shown(text, "registry.corp"), "kubelet-01")["only-signed"] == 5
