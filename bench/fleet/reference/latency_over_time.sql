SELECT
    date_trunc('hour', began) AS hour,
    method,
    count(*),
    quantile_disc(up_to_us, 0.5) / 1e6,
    quantile_disc(up_to_us, 0.95) / 1e6,
    max(duration_us) / 1e6
FROM rounded
WHERE method <> 'GetContainerEvents'
GROUP BY hour, method
ORDER BY hour, method
