SELECT
    calls.node,
    runtime_name,
    runtime_version,
    count(*),
    count(*) FILTER (code <> 'OK'),
    quantile_disc(up_to_us, 0.5) / 1e6,
    quantile_disc(up_to_us, 0.99) / 1e6 AS p99,
    max(duration_us) / 1e6
FROM rounded AS calls ASOF LEFT JOIN runtimes
    ON calls.node = runtimes.node AND date_trunc('hour', began) + INTERVAL 1 HOUR > since
WHERE method = $method
GROUP BY ALL
ORDER BY p99 DESC, calls.node, runtime_version
LIMIT 100
