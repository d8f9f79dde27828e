-- The tables of a fleet's calls. The Collector's clickhouse exporter writes log records to
-- criproxy.otel_logs (collector/gateway.yaml), which keeps nothing; the views below turn each record into a
-- row. Load it once, before the first Collector starts:
--   clickhouse-client --multiquery < schema.sql

CREATE DATABASE IF NOT EXISTS criproxy;

-- Log records, with the columns that the exporter inserts.
CREATE TABLE IF NOT EXISTS criproxy.otel_logs
(
    Timestamp DateTime64(9, 'UTC'),
    TraceId String,
    SpanId String,
    TraceFlags UInt8,
    SeverityText LowCardinality(String),
    SeverityNumber UInt8,
    ServiceName LowCardinality(String),
    Body String,
    ResourceSchemaUrl LowCardinality(String),
    ResourceAttributes Map(LowCardinality(String), String),
    ScopeSchemaUrl LowCardinality(String),
    ScopeName String,
    ScopeVersion LowCardinality(String),
    ScopeAttributes Map(LowCardinality(String), String),
    LogAttributes Map(LowCardinality(String), String),
    EventName String
)
ENGINE = Null;

-- A row for each call that has ended. Few methods have most of the calls: the rare ones, such as image pulls,
-- are found by the sorting key. Durations are microseconds.
CREATE TABLE IF NOT EXISTS criproxy.calls
(
    began DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    node LowCardinality(String) CODEC(ZSTD(1)),
    listener LowCardinality(String) CODEC(ZSTD(1)),
    service LowCardinality(String) CODEC(ZSTD(1)),
    method LowCardinality(String) CODEC(ZSTD(1)),
    code LowCardinality(String) CODEC(ZSTD(1)),
    message String CODEC(ZSTD(1)),
    duration_us UInt64 CODEC(T64, ZSTD(1)),
    held_us UInt64 CODEC(T64, ZSTD(1)),
    request_messages UInt64 CODEC(T64, ZSTD(1)),
    request_bytes UInt64 CODEC(T64, ZSTD(1)),
    response_messages UInt64 CODEC(T64, ZSTD(1)),
    response_bytes UInt64 CODEC(T64, ZSTD(1)),
    pid UInt32 CODEC(ZSTD(1)),
    uid UInt32 CODEC(ZSTD(1)),
    executable LowCardinality(String) CODEC(ZSTD(1)),
    namespace LowCardinality(String) CODEC(ZSTD(1)),
    pod String CODEC(ZSTD(1)),
    pod_uid String CODEC(ZSTD(1)),
    pod_id String CODEC(ZSTD(1)),
    container LowCardinality(String) CODEC(ZSTD(1)),
    container_id String CODEC(ZSTD(1)),
    image LowCardinality(String) CODEC(ZSTD(1)),
    rules Array(LowCardinality(String)) CODEC(ZSTD(1)),
    command Array(String) CODEC(ZSTD(1)) COMMENT 'of an exec; only the audit log has it, at level Request'
)
ENGINE = MergeTree
PARTITION BY toDate(began)
ORDER BY (method, node, began)
TTL toDate(began) + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1;

-- Latency by the hour, node and method: the number of calls by duration. A duration is rounded up, to one of
-- eight steps between a power of two and the next: by less than an eighth of it.
CREATE TABLE IF NOT EXISTS criproxy.latency
(
    hour DateTime('UTC') CODEC(Delta, ZSTD(1)),
    node LowCardinality(String) CODEC(ZSTD(1)),
    method LowCardinality(String) CODEC(ZSTD(1)),
    up_to_us UInt64 CODEC(T64, ZSTD(1)),
    calls SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    failed SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    total_us SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    longest_us SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (method, node, hour, up_to_us)
TTL hour + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS criproxy.latency_of_calls TO criproxy.latency AS
SELECT
    toStartOfHour(toDateTime(began, 'UTC')) AS hour,
    node,
    method,
    intDiv(duration_us + step - 1, step) * step AS up_to_us,
    count() AS calls,
    countIf(code != 'OK') AS failed,
    sum(duration_us) AS total_us,
    max(duration_us) AS longest_us
FROM
(
    SELECT began, node, method, code, duration_us,
        greatest(intDiv(roundToExp2(duration_us), 8), 1) AS step
    FROM criproxy.calls
)
GROUP BY hour, node, method, up_to_us;

-- Image pulls, sorted by image, and kept for longer than other calls.
CREATE TABLE IF NOT EXISTS criproxy.pulls
(
    began DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    image LowCardinality(String) CODEC(ZSTD(1)),
    node LowCardinality(String) CODEC(ZSTD(1)),
    namespace LowCardinality(String) CODEC(ZSTD(1)),
    pod String CODEC(ZSTD(1)),
    code LowCardinality(String) CODEC(ZSTD(1)),
    duration_us UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(began)
ORDER BY (image, began)
TTL toDate(began) + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS criproxy.pulls_of_calls TO criproxy.pulls AS
SELECT began, image, node, namespace, pod, code, duration_us
FROM criproxy.calls
WHERE method = 'PullImage';

-- Calls that run a command in a container or reach into it, sorted by pod, and kept for longer than other calls.
CREATE TABLE IF NOT EXISTS criproxy.execs
(
    began DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    namespace LowCardinality(String) CODEC(ZSTD(1)),
    pod String CODEC(ZSTD(1)),
    container LowCardinality(String) CODEC(ZSTD(1)),
    node LowCardinality(String) CODEC(ZSTD(1)),
    method LowCardinality(String) CODEC(ZSTD(1)),
    code LowCardinality(String) CODEC(ZSTD(1)),
    pid UInt32 CODEC(ZSTD(1)),
    uid UInt32 CODEC(ZSTD(1)),
    executable LowCardinality(String) CODEC(ZSTD(1)),
    command Array(String) CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(began)
ORDER BY (namespace, pod, began)
TTL toDate(began) + INTERVAL 90 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS criproxy.execs_of_calls TO criproxy.execs AS
SELECT began, namespace, pod, container, node, method, code, pid, uid, executable, command
FROM criproxy.calls
WHERE method IN ('Exec', 'ExecSync', 'Attach', 'PortForward');

-- Which runtime answered on a node, from when on. Of a node with several runtimes, the one that answered last.
CREATE TABLE IF NOT EXISTS criproxy.runtimes
(
    node String,
    since DateTime64(6, 'UTC'),
    runtime_name LowCardinality(String),
    runtime_version LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (node, since);

-- Lines of the call log: calls. Those that `calls` would drop at once are left out, and those of a clock that is wrong: an
-- INSERT into the partitions of very many days fails, and the Collector would try it again forever.
-- For the same reason a duration is at most 30 years: one that is no finite number of microseconds would fail, too.
CREATE MATERIALIZED VIEW IF NOT EXISTS criproxy.calls_of_call_log TO criproxy.calls AS
WITH JSONExtract(Body, 'Tuple(
    began String, listener String, service String, method String, code String, message String,
    duration_s Float64, held_s Float64, request_messages UInt64, request_bytes UInt64,
    response_messages UInt64, response_bytes UInt64, pid UInt32, uid UInt32, executable String,
    namespace String, pod String, pod_uid String, pod_id String, container String,
    container_id String, image String, rules Array(String))') AS line
SELECT
    parseDateTime64BestEffortOrZero(line.began, 6, 'UTC') AS began,
    if(ResourceAttributes['k8s.node.name'] != '',
        ResourceAttributes['k8s.node.name'], ResourceAttributes['host.name']) AS node,
    line.listener AS listener,
    line.service AS service,
    line.method AS method,
    line.code AS code,
    line.message AS message,
    toUInt64(round(least(greatest(line.duration_s, 0), 1e9) * 1e6)) AS duration_us,
    toUInt64(round(least(greatest(line.held_s, 0), 1e9) * 1e6)) AS held_us,
    line.request_messages AS request_messages,
    line.request_bytes AS request_bytes,
    line.response_messages AS response_messages,
    line.response_bytes AS response_bytes,
    line.pid AS pid,
    line.uid AS uid,
    line.executable AS executable,
    line.namespace AS namespace,
    line.pod AS pod,
    line.pod_uid AS pod_uid,
    line.pod_id AS pod_id,
    line.container AS container,
    line.container_id AS container_id,
    line.image AS image,
    line.rules AS rules
FROM criproxy.otel_logs
WHERE JSONExtractString(Body, 'event') = 'call'
    AND began BETWEEN now() - INTERVAL 30 DAY AND now() + INTERVAL 1 DAY;

-- Records of the audit log, from criproxy's sink otlp: calls that have ended.
CREATE MATERIALIZED VIEW IF NOT EXISTS criproxy.calls_of_audit_log TO criproxy.calls AS
WITH JSONExtract(Body, 'Tuple(
    requestReceivedTimestamp String, node String, listener String, service String, method String,
    code String, message String, durationSeconds Float64, requestMessages UInt64,
    requestBytes UInt64, responseMessages UInt64, responseBytes UInt64,
    caller Tuple(pid UInt32, uid UInt32, executable String),
    pod Tuple(namespace String, name String, uid String, id String),
    container Tuple(name String, id String, image String), image String, rules Array(String),
    requestObject Tuple(cmd Array(String)))') AS record
SELECT
    parseDateTime64BestEffortOrZero(record.requestReceivedTimestamp, 6, 'UTC') AS began,
    record.node AS node,
    record.listener AS listener,
    record.service AS service,
    record.method AS method,
    record.code AS code,
    record.message AS message,
    toUInt64(round(least(greatest(record.durationSeconds, 0), 1e9) * 1e6)) AS duration_us,
    record.requestMessages AS request_messages,
    record.requestBytes AS request_bytes,
    record.responseMessages AS response_messages,
    record.responseBytes AS response_bytes,
    record.caller.pid AS pid,
    record.caller.uid AS uid,
    record.caller.executable AS executable,
    record.pod.namespace AS namespace,
    record.pod.name AS pod,
    record.pod.uid AS pod_uid,
    record.pod.id AS pod_id,
    record.container.name AS container,
    record.container.id AS container_id,
    if(record.image != '', record.image, record.container.image) AS image,
    record.rules AS rules,
    if(method IN ('Exec', 'ExecSync'), record.requestObject.cmd, []) AS command
FROM criproxy.otel_logs
WHERE JSONExtractString(Body, 'kind') = 'Event'
    AND JSONExtractString(Body, 'stage') = 'ResponseComplete'
    AND began BETWEEN now() - INTERVAL 30 DAY AND now() + INTERVAL 1 DAY;

-- Lines of the daemon about its runtime.
CREATE MATERIALIZED VIEW IF NOT EXISTS criproxy.runtimes_of_log TO criproxy.runtimes AS
SELECT
    if(ResourceAttributes['k8s.node.name'] != '',
        ResourceAttributes['k8s.node.name'], ResourceAttributes['host.name']) AS node,
    parseDateTime64BestEffortOrZero(JSONExtractString(Body, 'timestamp'), 6, 'UTC') AS since,
    JSONExtractString(Body, 'runtime_name') AS runtime_name,
    JSONExtractString(Body, 'runtime_version') AS runtime_version
FROM criproxy.otel_logs
WHERE JSONExtractString(Body, 'event') = 'runtime answers' AND runtime_version != '';
