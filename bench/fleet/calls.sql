INSERT INTO criproxy.calls (
    began, node, listener, service, method, code, message, duration_us, held_us, request_messages,
    request_bytes, response_messages, response_bytes, pid, uid, executable, namespace, pod, pod_uid,
    pod_id, container, container_id, image, rules, command)
SELECT
    toDateTime64('{day} 00:00:00', 6, 'UTC')
        + toIntervalMicrosecond(number_of_call * {interval} + cityHash64(i, 2) % {interval}) AS began,
    concat('node-', leftPad(toString(on_node), 5, '0')) AS node,
    'unix:///run/criproxy/criproxy.sock' AS listener,
    if(method IN ('PullImage', 'ImageStatus', 'ImageFsInfo'),
        'runtime.v1.ImageService', 'runtime.v1.RuntimeService') AS service,
    {method} AS method,
    multiIf(luck < 10, 'NOT_FOUND', luck < 13, 'DEADLINE_EXCEEDED', luck < 15, 'UNAVAILABLE', 'OK')
        AS code,
    multiIf(code = 'OK', '', code = 'NOT_FOUND', concat('container "', container_id, '" in namespace "k8s.io": not found'),
        code = 'UNAVAILABLE', 'connection error', 'context deadline exceeded') AS message,
    toUInt64({median} * exp({sigma} * sqrt(-2 * log(u1)) * cos(2 * pi() * u2))) AS duration_us,
    if(cityHash64(i, 3) % 5000 = 0, 2000000, 0) AS held_us,
    1 AS request_messages,
    40 + cityHash64(i, 4) % 60 AS request_bytes,
    if(code = 'OK', 1, 0) AS response_messages,
    if(code = 'OK', toUInt64({response} * (0.5 + u2)), 0) AS response_bytes,
    if(other, 20000 + cityHash64(i, 5) % 10000, 900 + on_node % 100) AS pid,
    if(other AND cityHash64(i, 6) % 10 = 0, 1000, 0) AS uid,
    if(other, ['/usr/bin/crictl', '/usr/local/bin/agent', '/tmp/x'][least(cityHash64(i, 7) % 100, 2) + 1],
        '/usr/bin/kubelet') AS executable,
    if(about_pod, concat('team-', toString(of_pod % 40)), '') AS namespace,
    if(about_pod, concat('app-', toString(of_pod % 300), '-', lower(hex(toUInt32(of_pod)))), '') AS pod,
    if(about_pod, toString(reinterpretAsUUID(sipHash128(of_pod, 1))), '') AS pod_uid,
    if(about_pod, lower(hex(SHA256(toString(of_pod)))), '') AS pod_id,
    if(about_pod AND method NOT IN ('RunPodSandbox', 'PodSandboxStatus', 'PullImage', 'PortForward'), 'main', '')
        AS container,
    if(container != '', lower(hex(SHA256(concat('c', toString(of_pod))))), '') AS container_id,
    if(about_pod AND method != 'RunPodSandbox',
        concat('registry.example.com/team-', toString(of_pod % 40), '/app-', toString(of_pod % 300), ':v', toString(of_pod % 3)),
        '') AS image,
    if(held_us > 0, ['slow-pulls'], []) AS rules,
    if(method = 'ExecSync', [['/bin/healthy', '-q'], ['cat', '/tmp/ready']][of_pod % 2 + 1],
        if(method = 'Exec', ['sh'], [])) AS command
FROM
(
    SELECT
        number + {first} AS i,
        i % {nodes} AS on_node,
        intDiv(i, {nodes}) AS number_of_call,
        number_of_call % 125 AS step,
        cityHash64(i, 8) % 1000 AS kind,
        cityHash64(i, 9) % 1000 AS luck,
        step >= 4 AND cityHash64(i, 10) % 200 = 0 AS other,
        (cityHash64(i, 11) % 1000000 + 1) / 1000001 AS u1,
        (cityHash64(i, 12) % 1000000) / 1000000 AS u2,
        step < 4 OR {method} NOT IN ('ListPodSandbox', 'ListContainers', 'ListContainerStats', 'ImageStatus',
            'Version', 'Status', 'ImageFsInfo', 'GetContainerEvents') AS about_pod,
        cityHash64(on_node, greatest(toInt64(intDiv(number_of_call, 125))
            - if(step < 4, 0, toInt64(cityHash64(i, 13) % 30)), 0)) AS of_pod
    FROM numbers({number})
)
