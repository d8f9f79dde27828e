"""Computes the limits of each listener from the configuration and the file descriptors."""

import resource
from collections.abc import Sequence
from typing import Final

from criproxy.config.schema import LimitsConfig, ListenerConfig
from criproxy.observe.log import Log
from criproxy.relay.connection_shares import ListenerUse, connection_shares
from criproxy.relay.listener import Limits

_OWN: Final = 64
"""Descriptors for sockets, logs, control channels and the interpreter."""


def relay_limits(
    configured: LimitsConfig, listeners: Sequence[ListenerConfig], log: Log
) -> list[Limits]:
    """Return the limits of each listener; raises the soft limit on descriptors to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uses = [
        ListenerUse(
            scoped=each.is_scoped,
            split=each.shields_reads or each.is_split,
        )
        for each in listeners
    ]
    shares = connection_shares(max(0, hard - _OWN), uses)
    for listener, share in zip(listeners, shares, strict=True):
        if configured.connections is not None and configured.connections > share:
            log.warning(
                "limits.connections is more than the file descriptors allow",
                listener=str(listener.endpoint),
                connections=configured.connections,
                allowed=share,
                note="raise the hard limit (LimitNOFILE)",
            )
    return [
        Limits(
            connections=min(configured.connections or share, share),
            runtime_wait=configured.runtime_wait,
            write_buffer=configured.write_buffer,
            header_block=configured.header_block,
            streams=configured.streams,
            message=configured.message,
            header_list=configured.header_list,
            header_fields=configured.header_fields,
            frame_rate=configured.frame_rate,
        )
        for share in shares
    ]
