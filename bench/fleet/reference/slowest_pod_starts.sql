WITH sandboxes AS (
    SELECT node, pod_uid, min(began) AS sandbox
    FROM calls
    WHERE method = 'RunPodSandbox'
    GROUP BY node, pod_uid
),
steps AS (
    SELECT calls.*, epoch_us(began) AS from_us, epoch_us(began) + duration_us AS to_us
    FROM calls JOIN sandboxes USING (node, pod_uid)
    WHERE method IN ('RunPodSandbox', 'PullImage', 'CreateContainer', 'StartContainer')
        AND pod_uid <> '' AND began >= sandbox AND began < sandbox + INTERVAL 15 MINUTE
)
SELECT
    node,
    pod_uid,
    min(namespace),
    min(pod),
    min(began),
    (max(to_us) - min(from_us)) / 1e6 AS seconds,
    coalesce(sum(duration_us) FILTER (method = 'RunPodSandbox'), 0) / 1e6,
    coalesce(sum(duration_us) FILTER (method = 'PullImage'), 0) / 1e6,
    coalesce(sum(duration_us) FILTER (method = 'CreateContainer'), 0) / 1e6,
    coalesce(sum(duration_us) FILTER (method = 'StartContainer'), 0) / 1e6,
    greatest(max(to_us) - min(from_us) - sum(duration_us), 0) / 1e6,
    coalesce(max_by(image, (duration_us, image)) FILTER (method = 'PullImage'), '')
FROM steps
GROUP BY node, pod_uid
ORDER BY seconds DESC, pod_uid
LIMIT 20
