"""What a running daemon tells of pod starts: which are going on, and in which phase. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from criproxy.timeline.json_form import json_of
from criproxy.timeline.logged_call import LoggedCall, parse_line
from criproxy.timeline.pod_start import KINDS, PodStart
from criproxy.timeline.pod_starts import SETTLED, PodStarts

_STOP: Final = "StopPodSandbox"

KEPT_METHODS: Final = frozenset({*KINDS, _STOP})
"""The methods by whose calls pod starts are told; a pod that was stopped is not starting."""


class LivePods:
    """The pod starts in the last calls of a daemon, at a moment."""

    def __init__(
        self, lines: Iterable[bytes], in_flight: Iterable[Mapping[str, Any]], now: float
    ) -> None:
        """``lines`` are those of calls that have ended, ``in_flight`` the fields of others.

        ``now`` is in seconds since the epoch.
        """
        self._now = now
        stopped: set[str] = set()
        found, passed = PodStarts(), []
        for call in (*_ended(lines), *map(_running, in_flight)):
            if call.method == _STOP and call.pod_id:
                stopped.add(call.pod_id)
            passed += found.add(call)
        self._stopped = stopped
        self._starts = sorted([*passed, *found.finish()], key=lambda start: start.began)

    def all(self) -> list[dict[str, Any]]:
        """Return the JSON form of all starts, in the order in which they began."""
        return [self._json(start) for start in self._starts]

    def starting(self) -> list[dict[str, Any]]:
        """Return the JSON form of the starts that go on: without an end, and lately seen."""
        return [self._json(start) for start in self._starts if self._goes_on(start)]

    def ended(self, most: int) -> list[dict[str, Any]]:
        """Return the JSON form of starts that do not go on: so many, the last that began first."""
        ended = [start for start in reversed(self._starts) if not self._goes_on(start)]
        return [self._json(start) for start in ended[:most]]

    def _goes_on(self, start: PodStart) -> bool:
        if start.state == "started" or start.pod_id in self._stopped:
            return False
        return start.state == "running" or self._now - start.ended < SETTLED

    def _json(self, start: PodStart) -> dict[str, Any]:
        goes_on = self._goes_on(start)
        fields = json_of(start)
        if goes_on:
            phase = start.phase_at(self._now)
            fields["age_s"] = round(max(self._now - start.began, 0.0), 6)
            fields["phase"] = {
                "kind": phase.kind,
                "subject": phase.subject,
                "seconds": round(phase.seconds, 6),
                "text": phase.text,
            }
        return fields


def _ended(lines: Iterable[bytes]) -> Iterable[LoggedCall]:
    return [call for line in lines if (call := parse_line(line)) is not None]


def _running(fields: Mapping[str, Any]) -> LoggedCall:
    """Return a call in flight from its fields on the page of calls."""
    began = datetime.fromisoformat(fields["began"]).timestamp()
    return LoggedCall(
        service=fields["service"],
        method=fields["method"],
        began=began,
        until=began + fields["age_s"],
        running=True,
        listener=fields["listener"],
        pid=fields["pid"],
        executable=fields["executable"] or "",
        rules=tuple(fields["rules"]),
        held=fields["held_s"],
        **{name: fields.get(name, "") for name in _SUBJECT},
    )


_SUBJECT: Final = ("namespace", "pod", "pod_uid", "pod_id", "container", "container_id", "image")
