SELECT
    method,
    runtime_name,
    runtime_version,
    count(DISTINCT calls.node),
    count(*),
    count(*) FILTER (code <> 'OK'),
    quantile_disc(up_to_us, 0.5) / 1e6,
    quantile_disc(up_to_us, 0.99) / 1e6
FROM rounded AS calls ASOF LEFT JOIN runtimes
    ON calls.node = runtimes.node AND date_trunc('hour', began) + INTERVAL 1 HOUR > since
GROUP BY method, runtime_name, runtime_version
ORDER BY method, runtime_name, runtime_version
