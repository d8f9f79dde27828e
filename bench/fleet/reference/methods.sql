SELECT
    method,
    count(*),
    count(*) FILTER (code <> 'OK'),
    quantile_disc(up_to_us, 0.5) / 1e6,
    quantile_disc(up_to_us, 0.95) / 1e6,
    quantile_disc(up_to_us, 0.99) / 1e6,
    max(duration_us) / 1e6,
    sum(duration_us) / 1e6 AS total
FROM rounded
GROUP BY method
ORDER BY total DESC, method
