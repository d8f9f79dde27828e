-- The slowest starts of pods, and where the time went: from RunPodSandbox to the last StartContainer within 15 minutes.
-- Calls may overlap; `other_s` is time without a call of the start, such as the kubelet's own.
SELECT
    node,
    pod_uid,
    min(namespace) AS namespace,
    min(pod) AS pod,
    min(began) AS began,
    (max(ended_us) - min(began_us)) / 1e6 AS seconds,
    sumIf(duration_us, method = 'RunPodSandbox') / 1e6 AS sandbox_s,
    sumIf(duration_us, method = 'PullImage') / 1e6 AS pull_s,
    sumIf(duration_us, method = 'CreateContainer') / 1e6 AS create_s,
    sumIf(duration_us, method = 'StartContainer') / 1e6 AS start_s,
    greatest(toInt64(max(ended_us) - min(began_us)) - toInt64(sum(duration_us)), 0) / 1e6 AS other_s,
    argMaxIf(image, (duration_us, image), method = 'PullImage') AS slowest_image
FROM
(
    SELECT *, min(if(method = 'RunPodSandbox', began_us, NULL)) OVER (PARTITION BY node, pod_uid) AS sandbox_us
    FROM
    (
        SELECT
            node, pod_uid, namespace, pod, method, image, began, duration_us,
            toUnixTimestamp64Micro(began) AS began_us,
            began_us + duration_us AS ended_us
        FROM criproxy.calls
        WHERE method IN ('RunPodSandbox', 'PullImage', 'CreateContainer', 'StartContainer')
            AND began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')}
            AND pod_uid != ''
    )
)
WHERE began_us >= sandbox_us AND began_us < sandbox_us + 900000000
GROUP BY node, pod_uid
ORDER BY seconds DESC, pod_uid
LIMIT 20
