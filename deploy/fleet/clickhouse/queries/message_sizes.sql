-- The largest responses of one message by method, as a part of the 16 MiB that the kubelet takes, and on which node.
SELECT
    method,
    count() AS calls,
    avg(response_bytes) AS mean_bytes,
    max(response_bytes) AS largest_bytes,
    largest_bytes / (16 * 1024 * 1024) AS share,
    argMax(node, (response_bytes, node)) AS largest_on
FROM criproxy.calls
WHERE began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')} AND response_messages = 1
GROUP BY method
ORDER BY largest_bytes DESC, method
