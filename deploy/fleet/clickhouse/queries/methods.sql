-- Calls, errors and latency by method, over whole hours. Quantiles are rounded up by less than an eighth.
SELECT
    method,
    sum(l.calls) AS calls,
    sum(l.failed) AS failed,
    quantileExactWeighted(0.5)(up_to_us, l.calls) / 1e6 AS p50_s,
    quantileExactWeighted(0.95)(up_to_us, l.calls) / 1e6 AS p95_s,
    quantileExactWeighted(0.99)(up_to_us, l.calls) / 1e6 AS p99_s,
    max(l.longest_us) / 1e6 AS longest_s,
    sum(l.total_us) / 1e6 AS total_s
FROM criproxy.latency AS l
WHERE hour >= {since:DateTime('UTC')} AND hour < {until:DateTime('UTC')}
GROUP BY method
ORDER BY total_s DESC, method
