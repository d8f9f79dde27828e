SELECT
    method,
    executable,
    count(*) AS number,
    count(DISTINCT node) AS nodes,
    number / nodes / 86400,
    sum(duration_us) / 1e6 / nodes / 86400,
    sum(response_bytes)::BIGINT
FROM calls
WHERE method IN (SELECT method FROM reads)
GROUP BY method, executable
ORDER BY number DESC, method, executable
LIMIT 25
