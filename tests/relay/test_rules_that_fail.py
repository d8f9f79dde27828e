"""A policy that fails: the call passes, or is refused if the policy is enforcing."""

from pathlib import Path
from typing import NoReturn

import grpc
import pytest

from criproxy.wire.intercept.stream_handler import HeldStream
from tests.support.grpc_peers import Peer, channel, start
from tests.support.handlers import EachCall
from tests.support.relaying import Relay


class Broken(EachCall):
    def __init__(self, enforcing: bool) -> None:
        super().__init__(self._break)
        self.enforcing = enforcing

    def _break(self, stream: HeldStream) -> NoReturn:
        raise LookupError("a fault of ours")


@pytest.mark.parametrize(
    ("enforcing", "code"), [(False, grpc.StatusCode.OK), (True, grpc.StatusCode.INTERNAL)]
)
def test_fault_of_the_policy(
    short_dir: Path, peer: Peer, loop: str, enforcing: bool, code: grpc.StatusCode
) -> None:
    """The error is reported, the connection stays, and an enforcing policy refuses the call."""
    with (
        Relay(short_dir, peer.path, loop=loop, policy=Broken(enforcing)) as relay,
        channel(relay.path) as one,
    ):
        for _ in range(2):
            assert start(one, "unary_unary", "Unary", b"x").outcome().code is code
        assert len(relay.recorder.opened) == 1
        assert [type(crash) for crash in relay.crashes] == [LookupError] * 2
        relay.crashes.clear()
