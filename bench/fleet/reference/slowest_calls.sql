SELECT
    began, node, method, code, duration_us / 1e6, executable, namespace, pod, container, image, held_us / 1e6, rules
FROM calls
WHERE method <> 'GetContainerEvents'
ORDER BY duration_us DESC, began, node
LIMIT 25
