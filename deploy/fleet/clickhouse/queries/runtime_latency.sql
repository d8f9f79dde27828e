-- Latency of a method by node and the version of its runtime, the slowest nodes first.
SELECT
    l.node AS node,
    r.runtime_name AS runtime_name,
    r.runtime_version AS runtime_version,
    sum(l.calls) AS calls,
    sum(l.failed) AS failed,
    quantileExactWeighted(0.5)(l.up_to_us, l.calls) / 1e6 AS p50_s,
    quantileExactWeighted(0.99)(l.up_to_us, l.calls) / 1e6 AS p99_s,
    max(l.longest_us) / 1e6 AS longest_s
FROM
(
    SELECT *, toDateTime64(hour + INTERVAL 1 HOUR, 6, 'UTC') AS ended
    FROM criproxy.latency
    WHERE method = {method:String}
        AND hour >= {since:DateTime('UTC')} AND hour < {until:DateTime('UTC')}
) AS l
ASOF LEFT JOIN criproxy.runtimes AS r ON l.node = r.node AND r.since < l.ended
GROUP BY node, runtime_name, runtime_version
ORDER BY p99_s DESC, node, runtime_version
LIMIT 100
