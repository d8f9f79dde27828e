-- Calls that only read, by method and executable: how often a node is asked, and how many calls a node had in flight
-- on average.
SELECT
    method,
    executable,
    count() AS calls,
    uniqExact(node) AS nodes,
    calls / nodes / dateDiff('second', {since:DateTime('UTC')}, {until:DateTime('UTC')}) AS per_node_and_second,
    sum(duration_us) / 1e6 / nodes / dateDiff('second', {since:DateTime('UTC')}, {until:DateTime('UTC')}) AS busy,
    sum(response_bytes) AS response_bytes
FROM criproxy.calls
WHERE began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')}
    AND method IN (
        'ContainerStats', 'ContainerStatus', 'ImageFsInfo', 'ImageStatus', 'ListContainerStats',
        'ListContainers', 'ListImages', 'ListMetricDescriptors', 'ListPodSandbox',
        'ListPodSandboxMetrics', 'ListPodSandboxStats', 'PodSandboxStats', 'PodSandboxStatus',
        'RuntimeConfig', 'Status', 'StreamContainerStats', 'StreamContainers', 'StreamImages',
        'StreamPodSandboxMetrics', 'StreamPodSandboxStats', 'StreamPodSandboxes', 'Version')
GROUP BY method, executable
ORDER BY calls DESC, method, executable
LIMIT 25
