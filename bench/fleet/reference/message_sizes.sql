SELECT
    method,
    count(*),
    sum(response_bytes)::BIGINT / count(*),
    max(response_bytes) AS largest,
    largest / 16777216,
    max_by(node, (response_bytes, node))
FROM calls
WHERE response_messages = 1
GROUP BY method
ORDER BY largest DESC, method
