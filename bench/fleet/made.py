"""Makes the calls of a fleet in ClickHouse, the same ones each time.

A node's calls are spread over a day. Of each 125, four are a pod's start; the others are what a kubelet
asks of its runtime, with a few calls of other clients. Latencies are lognormal by method.
"""

from datetime import date
from typing import Final, NamedTuple

from bench.fleet.clickhouse import ClickHouse

_AT_ONCE: Final = 4_000_000
"""Rows of one INSERT."""

_METHODS: Final = (
    # per mille up to which the method is chosen, method, median in microseconds, sigma, bytes of a response
    (300, "ContainerStatus", 900, 0.7, 2500),
    (480, "PodSandboxStatus", 800, 0.7, 1200),
    (600, "ListPodSandbox", 2500, 0.8, 18000),
    (720, "ListContainers", 3000, 0.8, 60000),
    (880, "ExecSync", 45000, 0.9, 40),
    (910, "ListContainerStats", 9000, 0.8, 30000),
    (940, "ImageStatus", 1500, 0.8, 900),
    (955, "Version", 300, 0.5, 60),
    (975, "Status", 600, 0.5, 200),
    (985, "ImageFsInfo", 1200, 0.6, 120),
    (989, "StopContainer", 1100000, 1.2, 0),
    (993, "RemoveContainer", 30000, 0.8, 0),
    (996, "Exec", 4000, 0.6, 90),
    (998, "PortForward", 3000, 0.6, 90),
    (999, "GetContainerEvents", 300000000, 1.0, 5000),
    (1000, "Attach", 3500, 0.6, 90),
)
_START: Final = (
    ("RunPodSandbox", 350000, 0.7, 70),
    ("PullImage", 2500000, 1.2, 80),
    ("CreateContainer", 60000, 0.7, 70),
    ("StartContainer", 80000, 0.7, 0),
)


class Fleet(NamedTuple):
    """The size of a fleet, and its day (UTC)."""

    nodes: int
    calls: int
    """Of each node."""
    day: date

    @property
    def rows(self) -> int:
        """All calls."""
        return self.nodes * self.calls


def make(fleet: Fleet, clickhouse: ClickHouse) -> None:
    """Insert the calls of a fleet, and the runtimes of its nodes, into the tables of the schema."""
    clickhouse.run(_RUNTIMES.format(nodes=fleet.nodes, day=fleet.day))
    for first in range(0, fleet.rows, _AT_ONCE):
        number = min(_AT_ONCE, fleet.rows - first)
        clickhouse.run(
            _CALLS.format(
                first=first,
                number=number,
                nodes=fleet.nodes,
                interval=86_400_000_000 // fleet.calls,
                day=fleet.day,
                method=_by_method(1),
                median=_by_method(2),
                sigma=_by_method(3),
                response=_by_method(4),
            )
        )


def _by_method(column: int) -> str:
    """Return the SQL of a column of the tables of methods, by ``step`` and ``kind``."""
    of_start = ", ".join(_literal(row[column - 1]) for row in _START)
    cases = ", ".join(f"kind < {row[0]}, {_literal(row[column])}" for row in _METHODS[:-1])
    last = _literal(_METHODS[-1][column])
    return f"if(step < 4, [{of_start}][step + 1], multiIf({cases}, {last}))"


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


_NODE: Final = "concat('node-', leftPad(toString(on_node), 5, '0'))"

_RUNTIMES: Final = f"""
INSERT INTO criproxy.runtimes
SELECT {_NODE}, moment, 'containerd', version
FROM
(
    SELECT
        number AS on_node,
        ['1.7.27', '1.7.29', '2.1.4'][cityHash64(number, 1) % 3 + 1] AS before,
        arrayJoin(if(number % 20 = 7, [0, 1], [0])) AS upgraded,
        if(upgraded = 1, '2.2.0', before) AS version,
        toDateTime64('{{day}} 00:00:00', 6, 'UTC')
            + toIntervalSecond(if(upgraded = 1, 36000 + number % 3600, -3600)) AS moment
    FROM numbers({{nodes}})
)
"""

_CALLS: Final = f"""
INSERT INTO criproxy.calls (
    began, node, listener, service, method, code, message, duration_us, held_us, request_messages,
    request_bytes, response_messages, response_bytes, pid, uid, executable, namespace, pod, pod_uid,
    pod_id, container, container_id, image, rules, command)
SELECT
    toDateTime64('{{day}} 00:00:00', 6, 'UTC')
        + toIntervalMicrosecond(number_of_call * {{interval}} + cityHash64(i, 2) % {{interval}}) AS began,
    {_NODE} AS node,
    'unix:///run/criproxy/criproxy.sock' AS listener,
    if(method IN ('PullImage', 'ImageStatus', 'ImageFsInfo'),
        'runtime.v1.ImageService', 'runtime.v1.RuntimeService') AS service,
    {{method}} AS method,
    multiIf(luck < 10, 'NOT_FOUND', luck < 13, 'DEADLINE_EXCEEDED', luck < 15, 'UNAVAILABLE', 'OK')
        AS code,
    multiIf(code = 'OK', '', code = 'NOT_FOUND', concat('container "', container_id, '" in namespace "k8s.io": not found'),
        code = 'UNAVAILABLE', 'connection error', 'context deadline exceeded') AS message,
    toUInt64({{median}} * exp({{sigma}} * sqrt(-2 * log(u1)) * cos(2 * pi() * u2))) AS duration_us,
    if(cityHash64(i, 3) % 5000 = 0, 2000000, 0) AS held_us,
    1 AS request_messages,
    40 + cityHash64(i, 4) % 60 AS request_bytes,
    if(code = 'OK', 1, 0) AS response_messages,
    if(code = 'OK', toUInt64({{response}} * (0.5 + u2)), 0) AS response_bytes,
    if(other, 20000 + cityHash64(i, 5) % 10000, 900 + on_node % 100) AS pid,
    if(other AND cityHash64(i, 6) % 10 = 0, 1000, 0) AS uid,
    if(other, ['/usr/bin/crictl', '/usr/local/bin/agent', '/tmp/x'][least(cityHash64(i, 7) % 100, 2) + 1],
        '/usr/bin/kubelet') AS executable,
    if(about_pod, concat('team-', toString(of_pod % 40)), '') AS namespace,
    if(about_pod, concat('app-', toString(of_pod % 300), '-', lower(hex(toUInt32(of_pod)))), '') AS pod,
    if(about_pod, toString(reinterpretAsUUID(sipHash128(of_pod, 1))), '') AS pod_uid,
    if(about_pod, lower(hex(SHA256(toString(of_pod)))), '') AS pod_id,
    if(about_pod AND method NOT IN ('RunPodSandbox', 'PodSandboxStatus', 'PullImage', 'PortForward'), 'main', '')
        AS container,
    if(container != '', lower(hex(SHA256(concat('c', toString(of_pod))))), '') AS container_id,
    if(about_pod AND method != 'RunPodSandbox',
        concat('registry.example.com/team-', toString(of_pod % 40), '/app-', toString(of_pod % 300), ':v', toString(of_pod % 3)),
        '') AS image,
    if(held_us > 0, ['slow-pulls'], []) AS rules,
    if(method = 'ExecSync', [['/bin/healthy', '-q'], ['cat', '/tmp/ready']][of_pod % 2 + 1],
        if(method = 'Exec', ['sh'], [])) AS command
FROM
(
    SELECT
        number + {{first}} AS i,
        i % {{nodes}} AS on_node,
        intDiv(i, {{nodes}}) AS number_of_call,
        number_of_call % 125 AS step,
        cityHash64(i, 8) % 1000 AS kind,
        cityHash64(i, 9) % 1000 AS luck,
        step >= 4 AND cityHash64(i, 10) % 200 = 0 AS other,
        (cityHash64(i, 11) % 1000000 + 1) / 1000001 AS u1,
        (cityHash64(i, 12) % 1000000) / 1000000 AS u2,
        step < 4 OR {{method}} NOT IN ('ListPodSandbox', 'ListContainers', 'ListContainerStats', 'ImageStatus',
            'Version', 'Status', 'ImageFsInfo', 'GetContainerEvents') AS about_pod,
        cityHash64(on_node, greatest(toInt64(intDiv(number_of_call, 125))
            - if(step < 4, 0, toInt64(cityHash64(i, 13) % 30)), 0)) AS of_pod
    FROM numbers({{number}})
)
"""
