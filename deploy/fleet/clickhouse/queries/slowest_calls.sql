-- The calls that took the longest, without streams that last until a side ends them.
SELECT
    began, node, method, code, duration_us / 1e6 AS duration_s, executable, namespace, pod, container, image,
    held_us / 1e6 AS held_s, rules
FROM criproxy.calls
WHERE began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')}
    AND method NOT IN ('GetContainerEvents')
ORDER BY duration_us DESC, began, node
LIMIT 25
