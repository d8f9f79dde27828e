SELECT
    method,
    code,
    left(regexp_replace(message, '[0-9a-f]{32,}', '<id>', 'g'), 300) AS text,
    count(*) AS number,
    count(DISTINCT node),
    min(began),
    max(began),
    coalesce(min(node || ' ' || namespace || '/' || pod) FILTER (pod <> ''), '')
FROM calls
WHERE code <> 'OK'
GROUP BY method, code, text
ORDER BY number DESC, method, code, text
LIMIT 50
