"""Metrics of several processes as those of one daemon.

Each worker makes a snapshot of its registry: plain data that can be sent to the supervisor, which
merges the snapshots of all workers, and of those that are gone, into one exposition.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Snapshot = list[list[Any]]
"""Families, each as ``[name, help, type, samples]``; a sample is ``[name, labels, value]``, and
``[name, labels, value, [labels, value, timestamp]]`` with an exemplar."""

_Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""

_GROWING: Final = frozenset({"counter", "histogram", "summary"})
_GROWING_SUFFIXES: Final = ("_total", "_bucket", "_count", "_sum")

_RULES: Final[Mapping[str, Callable[[float, float], float]]] = {
    "criproxy_config_reload_success": min,
    "criproxy_config_reload_timestamp_seconds": max,
    "criproxy_oldest_call_age_seconds": max,
    "criproxy_runtime_up": min,
    "process_start_time_seconds": min,
}
"""How the gauges are merged that are not amounts; all other samples are added up."""


_OPEN_FDS: Final = "process_open_fds"
_MAX_FDS: Final = "process_max_fds"
"""Both are those of the process that is nearest to its limit: each has a limit of its own, so their
ratio says nothing if one is added up."""


def snapshot(registry: CollectorRegistry) -> Snapshot:
    """Return a registry's samples as plain data. Safe on any thread."""
    families: Snapshot = []
    for family in registry.collect():
        families.append([family.name, family.documentation, family.type, _plain(family)])
    return families


class ProcessMetrics:
    """The metrics of a process without calls: of itself, and of its counters."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def snapshot(self, counters: Collector) -> Snapshot:
        """Return the samples of the process and of ``counters``."""
        self._registry.register(counters)
        try:
            return snapshot(self._registry)
        finally:
            self._registry.unregister(counters)


def _plain(family: Metric) -> list[Any]:
    """Return a family's samples as plain data."""
    return [
        [each.name, dict(each.labels), each.value]
        + ([] if each.exemplar is None else [list(each.exemplar)])
        for each in family.samples
        if not each.name.endswith("_created")
    ]


def retire(total: Snapshot, last: Snapshot) -> Snapshot:
    """Add what a worker counted that is gone to ``total``, the counts of those gone before it.

    Only what grows is kept: the connections and calls in flight of a worker end with it.
    """
    growing = [
        [name, text, kind, [each for each in samples if each[0].endswith(_GROWING_SUFFIXES)]]
        for name, text, kind, samples in last
        if kind in _GROWING
    ]
    return list(_as_snapshot(merge([total, growing])))


def merge(snapshots: Iterable[Snapshot]) -> list[Metric]:
    """Return the families of all snapshots; samples with the same labels are added up.

    Gauges that are not amounts are merged by ``_RULES``; an info is taken from the first snapshot,
    and of exemplars the latest. File descriptors are those of the process nearest to its limit.
    """
    snapshots = list(snapshots)
    fullest = max(snapshots, key=_used_descriptors, default=None)
    families: dict[str, Metric] = {}
    values: dict[str, dict[_Key, float]] = {}
    exemplars: dict[_Key, Exemplar] = {}
    for each in snapshots:
        for name, text, kind, samples in each:
            if name in (_OPEN_FDS, _MAX_FDS) and each is not fullest:
                continue
            families.setdefault(name, Metric(name, text, kind))
            found = values.setdefault(name, {})
            rule = max if kind == "info" else _RULES.get(name)
            for sample, labels, value, *exemplar in samples:
                key = sample, tuple(sorted(labels.items()))
                for one in exemplar:
                    exemplars[key] = max(
                        exemplars.get(key, Exemplar(*one)), Exemplar(*one), key=_at
                    )
                if key not in found:
                    found[key] = value
                else:
                    found[key] = found[key] + value if rule is None else rule(found[key], value)
    for name, found in values.items():
        for key, value in found.items():
            sample, labels = key
            families[name].add_sample(sample, dict(labels), value, exemplar=exemplars.get(key))
    return list(families.values())


def _used_descriptors(process: Snapshot) -> float:
    """Return which part of its file descriptors a process has open; -1 where it reports none."""
    found = {name: samples[0][2] for name, _, _, samples in process if samples}
    return found[_OPEN_FDS] / found[_MAX_FDS] if found.get(_MAX_FDS) else -1.0


def _at(exemplar: Exemplar) -> float:
    return float(exemplar.timestamp or 0.0)


class MergedCollector(Collector):
    """Exports the merged metrics of all workers from the supervisor's registry."""

    def __init__(self, snapshots: Callable[[], Iterable[Snapshot]]) -> None:
        """``snapshots`` is called for each scrape, on its thread."""
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """Yield the merged families."""
        yield from merge(self._snapshots())

    def describe(self) -> list[Metric]:
        """Return nothing: no metric is known before the first scrape."""
        return []


def _as_snapshot(families: Iterable[Metric]) -> Iterator[list[Any]]:
    for family in families:
        yield [family.name, family.documentation, family.type, _plain(family)]
