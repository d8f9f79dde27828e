-- Latency by method and the version of the runtime, over all nodes: what an upgrade changed.
SELECT
    l.method AS method,
    r.runtime_name AS runtime_name,
    r.runtime_version AS runtime_version,
    uniqExact(l.node) AS nodes,
    sum(l.calls) AS calls,
    sum(l.failed) AS failed,
    quantileExactWeighted(0.5)(l.up_to_us, l.calls) / 1e6 AS p50_s,
    quantileExactWeighted(0.99)(l.up_to_us, l.calls) / 1e6 AS p99_s
FROM
(
    SELECT *, toDateTime64(hour + INTERVAL 1 HOUR, 6, 'UTC') AS ended
    FROM criproxy.latency
    WHERE hour >= {since:DateTime('UTC')} AND hour < {until:DateTime('UTC')}
) AS l
ASOF LEFT JOIN criproxy.runtimes AS r ON l.node = r.node AND r.since < l.ended
GROUP BY method, runtime_name, runtime_version
ORDER BY method, runtime_name, runtime_version
