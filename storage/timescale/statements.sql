-- The SQL of this folder, by name. Names in braces are put in as quoted identifiers or as other pieces from here;
-- values are always parameters.

-- name: session
-- Times come and go in UTC. A commit is durable even where the role's default says otherwise: our receipts promise it.
SELECT
    set_config('TimeZone', 'UTC', false),
    set_config('statement_timeout', %(timeout)s, false),
    CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END

-- name: server
SELECT
    current_schema() AS schema,
    current_setting('server_version') AS version,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
    (SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'timescaledb') AS home

-- name: columns
SELECT attname, format_type(atttypid, atttypmod)
FROM pg_attribute
    JOIN pg_class c ON c.oid = attrelid
    JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relname = %s AND attnum > 0 AND NOT attisdropped

-- name: lock
-- Held to the end of the transaction, so that of many gateways that start at once one makes the table.
SELECT pg_advisory_xact_lock(hashtextextended('edgedepot ' || %s, 0))

-- name: create_table
-- Names sort by their bytes, as they do in every other storage.
CREATE TABLE {table} (
    gateway_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    "timestamp" timestamptz NOT NULL,
    {fields},
    quality smallint,
    store_epoch bigint NOT NULL DEFAULT 0,
    gateway_seq bigint NOT NULL DEFAULT 0,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway_id, device_id, "timestamp")
)

-- name: create_index
CREATE INDEX ON {table} ("timestamp" DESC)

-- name: create_hypertable
SELECT {create_hypertable}(
    %s::regclass, 'timestamp', chunk_time_interval => interval '7 days', create_default_indexes => false
)

-- name: add_column
ALTER TABLE {table} ADD COLUMN {field} {type}

-- name: drop_staging
DROP TABLE IF EXISTS {staging}

-- name: create_staging
CREATE TEMPORARY TABLE {staging} (
    device_id text,
    "timestamp" timestamptz,
    store_epoch bigint,
    gateway_seq bigint,
    quality smallint,
    {fields}
) ON COMMIT DELETE ROWS

-- name: copy
COPY {staging} FROM STDIN (FORMAT BINARY)

-- name: upsert_versions
-- Nothing older overwrites newer, and a merge never nulls a value.
INSERT INTO {table} AS t (gateway_id, device_id, "timestamp", store_epoch, gateway_seq, quality, {fields})
SELECT %s::text, device_id, "timestamp", store_epoch, gateway_seq, quality, {fields}
FROM {staging}
WHERE (store_epoch, gateway_seq) <> (0, 0)
ON CONFLICT (gateway_id, device_id, "timestamp") DO UPDATE SET
    {merges},
    quality = excluded.quality,
    store_epoch = excluded.store_epoch,
    gateway_seq = excluded.gateway_seq,
    received_at = excluded.received_at
WHERE (excluded.store_epoch, excluded.gateway_seq) > (t.store_epoch, t.gateway_seq)

-- name: upsert_direct
-- Rows without a version merge whatever version is there, and leave it as it is; equal ones change nothing.
INSERT INTO {table} AS t (gateway_id, device_id, "timestamp", quality, {fields})
SELECT %s::text, device_id, "timestamp", quality, {fields}
FROM {staging}
WHERE (store_epoch, gateway_seq) = (0, 0)
ON CONFLICT (gateway_id, device_id, "timestamp") DO UPDATE SET
    {merges},
    quality = coalesce(excluded.quality, t.quality),
    received_at = excluded.received_at
WHERE ROW(coalesce(excluded.quality, t.quality), {merged}) IS DISTINCT FROM ROW(t.quality, {current})

-- name: select
SELECT {columns} FROM {table} WHERE {where} ORDER BY {order} LIMIT %(limit)s

-- name: delete
DELETE FROM {table} WHERE {where}

-- name: extent
SELECT min("timestamp"), max("timestamp") FROM {table} WHERE {where} AND {field} IS NOT NULL

-- name: values
-- What an aggregate is made of. `device` and `bucket` are constants where the call does not ask for them.
SELECT gateway_id, device_id, "timestamp", {device} AS device, {bucket} AS bucket, {field} AS value
FROM {table}
WHERE {where} AND {field} IS NOT NULL

-- name: calculated
SELECT device, bucket, {function} FROM ({values}) AS v GROUP BY device, bucket ORDER BY device, bucket

-- name: first
SELECT DISTINCT ON (device, bucket) device, bucket, value FROM ({values}) AS v
ORDER BY device, bucket, "timestamp", gateway_id COLLATE "C", device_id COLLATE "C"

-- name: last
SELECT DISTINCT ON (device, bucket) device, bucket, value FROM ({values}) AS v
ORDER BY device, bucket, "timestamp" DESC, gateway_id COLLATE "C" DESC, device_id COLLATE "C" DESC

-- name: measurements
-- The tables of this schema that hold readings and may be read.
SELECT c.relname
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND a.attname = ANY(%(names)s)
    AND has_table_privilege(c.oid, 'SELECT')
GROUP BY c.relname
HAVING count(*) = cardinality(%(names)s)
ORDER BY c.relname

-- name: devices_of
SELECT device_id COLLATE "C" AS device_id, min("timestamp") AS first_seen, max("timestamp") AS last_seen
FROM {table}
WHERE {where}
GROUP BY 1

-- name: devices
SELECT device_id, min(first_seen), max(last_seen) FROM ({parts}) AS d GROUP BY device_id ORDER BY device_id
