-- The most frequent errors. Messages that differ in ids alone are the same.
SELECT
    method,
    code,
    leftUTF8(replaceRegexpAll(message, '[0-9a-f]{32,}', '<id>'), 300) AS text,
    count() AS calls,
    uniqExact(node) AS nodes,
    min(began) AS first,
    max(began) AS last,
    minIf(concat(node, ' ', namespace, '/', pod), pod != '') AS example
FROM criproxy.calls
WHERE began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')} AND code != 'OK'
GROUP BY method, code, text
ORDER BY calls DESC, method, code, text
LIMIT 50
