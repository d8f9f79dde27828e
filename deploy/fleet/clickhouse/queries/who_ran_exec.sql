-- Who ran commands in containers or reached into them: callers by executable and uid, rare ones first. The kubelet's
-- probes are calls of ExecSync.
SELECT
    executable,
    uid,
    method,
    namespace,
    pod,
    container,
    command,
    count() AS calls,
    countIf(code != 'OK') AS failed,
    uniqExact(node) AS nodes,
    min(began) AS first,
    max(began) AS last
FROM criproxy.execs
WHERE began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')}
GROUP BY executable, uid, method, namespace, pod, container, command
ORDER BY calls, executable, uid, method, namespace, pod, container, command
LIMIT 100
