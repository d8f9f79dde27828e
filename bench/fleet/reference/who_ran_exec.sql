SELECT
    executable,
    uid,
    method,
    namespace,
    pod,
    container,
    command,
    count(*) AS number,
    count(*) FILTER (code <> 'OK'),
    count(DISTINCT node),
    min(began),
    max(began)
FROM calls
WHERE method IN ('Exec', 'ExecSync', 'Attach', 'PortForward')
GROUP BY executable, uid, method, namespace, pod, container, command
ORDER BY number, executable, uid, method, namespace, pod, container, command
LIMIT 100
