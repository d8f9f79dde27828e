"""Plays recorded connections of a kubelet through a running daemon."""

import socket
from pathlib import Path
from typing import Any

from criproxy.wire.reading.connection import Side
from tests.support.captures import NAMES, capture
from tests.support.criproxy import Criproxy
from tests.support.raw_sockets import accept, dial, listening, receive

KUBELET = [name for name in NAMES if name.startswith("kubelet")]


def recorded_log(directory: Path, audit: Path | None = None) -> list[dict[str, Any]]:
    """The call log of a daemon that a recorded kubelet has called, also with an audit log."""
    runtime = directory / "cri.sock"
    config: dict[str, Any] = {"log": {"pods": True}}
    if audit is not None:
        policy = [{"level": "RequestResponse"}]
        config["audit"] = {"policy": policy, "sinks": [{"file": {"path": str(audit)}}]}
    with (
        listening(runtime) as listener,
        Criproxy(directory, f"unix://{runtime}", config=config) as proxy,
    ):
        for name in KUBELET:
            _play(name, proxy, listener)
        assert proxy.stop() == 0
        return proxy.calls()


def _play(name: str, proxy: Criproxy, listener: socket.socket) -> None:
    conversation = [each for each in capture(name) if each.data]
    with dial(proxy.path) as client:
        first = next(sent for sent in conversation if sent.side is Side.CLIENT)
        rest = [sent for sent in conversation if sent is not first]
        client.sendall(first.data)
        own = []  # connections of the daemon's own, which are not answered
        while not first.data.startswith((peer := accept(listener)).recv(1 << 16, socket.MSG_PEEK)):
            own.append(peer)
        assert receive(peer, len(first.data)) == first.data
        with peer:
            for sent in rest:
                source, target = (client, peer) if sent.side is Side.CLIENT else (peer, client)
                source.sendall(sent.data)
                assert receive(target, len(sent.data)) == sent.data
        for each in own:
            each.close()
