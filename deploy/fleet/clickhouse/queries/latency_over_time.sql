-- Latency by hour and method, without streams that last until a side ends them.
SELECT
    hour,
    method,
    sum(l.calls) AS calls,
    quantileExactWeighted(0.5)(up_to_us, l.calls) / 1e6 AS p50_s,
    quantileExactWeighted(0.95)(up_to_us, l.calls) / 1e6 AS p95_s,
    max(l.longest_us) / 1e6 AS longest_s
FROM criproxy.latency AS l
WHERE hour >= {since:DateTime('UTC')} AND hour < {until:DateTime('UTC')}
    AND method NOT IN ('GetContainerEvents')
GROUP BY hour, method
ORDER BY hour, method
