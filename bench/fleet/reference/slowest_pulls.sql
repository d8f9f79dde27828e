SELECT
    image,
    count(*),
    count(DISTINCT node),
    count(*) FILTER (code <> 'OK'),
    quantile_disc(duration_us, 0.5) FILTER (code = 'OK') / 1e6,
    quantile_disc(duration_us, 0.95) FILTER (code = 'OK') / 1e6 AS p95,
    max(duration_us) / 1e6,
    max_by(node, (duration_us, node))
FROM calls
WHERE method = 'PullImage'
GROUP BY image
ORDER BY p95 DESC, image
LIMIT 50
