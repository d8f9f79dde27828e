"""Attacks by a client of a scoped listener, which must not affect the clients of others.

While it attacks, a client of the full listener makes calls. Each of them succeeds, a number of them
is made after the attack has begun and before it ends, and the daemon's memory is bounded.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.client import CriClient
from tests.attacks.inputs import ATTACKS, BY_NAME, Attack
from tests.attacks.setup import GROWTH, Daemon, KubeletClient, attacking
from tests.support.waiting import LIMIT_SECONDS, wait_until

MIB = 1 << 20
CYCLES = 10
"""Number of cycles of the kubelet's calls that complete during an attack."""
SPLIT = (
    "hpack-references",
    "hpack-references-huffman",
    "metadata-references",
    "continuation-empty",
    "ping-flood",
    "settings-flood",
    "empty-data",
    "rapid-reset",
    "denied-calls",
    "unread-lists",
    "held-messages",
    "audited-backtracking",
)
"""The attacks that are tried on listeners with two upstreams, which have another relay."""


@pytest.fixture(scope="module")
def shared(session_dir: Path) -> Iterator[Daemon]:
    """The daemon that the tests share as long as it survives."""
    directory = session_dir / "attacks"
    directory.mkdir()
    with Daemon(directory) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The shared daemon; it is started anew after a test that it has failed."""
    yield shared
    if not shared.sound:
        shared.stop()
        shared.start()
        shared.sound = True


def resist(daemon: Daemon, attack: Attack, version: str, listener: str, output: Path) -> None:
    """Assert that the kubelet's calls succeed during an attack, and the listener's after it."""
    daemon.sound = False
    before = daemon.memory()
    with KubeletClient(daemon.endpoint("proxy")) as kubelet:
        kubelet.cycle()
        largest = before
        with attacking(attack, version, daemon.path(listener), output) as attacker:
            for _ in range(CYCLES):
                kubelet.cycle()
                largest = max(largest, daemon.memory())
            assert attacker.running
        kubelet.cycle()
    assert largest - before < GROWTH, f"{(largest - before) / MIB:.0f} MiB more"

    def answers() -> bool:
        with CriClient(daemon.endpoint(listener), version, timeout=LIMIT_SECONDS) as client:
            return bool(client.Version().runtime_name)

    wait_until(answers, f"answer on {listener} after the attack")
    daemon.sound = True


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_others_do_not_notice(attack: Attack, daemon: Daemon, tmp_path: Path) -> None:
    """A client of the full listener loses no call to an attack on a scoped one."""
    resist(daemon, attack, "v1", attack.listener, tmp_path / "attacker")


@pytest.mark.parametrize("name", SPLIT)
def test_nor_through_a_split_listener(name: str, daemon: Daemon, tmp_path: Path) -> None:
    """The same holds for the older API version, on a listener whose image service is another."""
    attack = BY_NAME[name]
    resist(daemon, attack, "v1alpha2", f"{attack.listener}-split", tmp_path / "attacker")
