-- The SQL of this folder, by name. Names in braces are put in as quoted identifiers or as other pieces from here;
-- values are always parameters. Times and intervals are read in binary: as texts they come as the server's settings say.

-- name: settings
-- Times come and go in UTC. A commit is durable even where the role's default says otherwise: our receipts promise it.
-- For the transaction alone: behind a pooler the next one may run in another session.
SELECT concat(
    set_config('TimeZone', 'UTC', true),
    set_config('statement_timeout', {timeout}, true),
    CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END)

-- name: server
SELECT
    current_schema() AS schema,
    current_setting('server_version') AS version,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
    (SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'timescaledb') AS home,
    has_database_privilege(current_database(), 'TEMPORARY') AS temporary

-- name: schema_exists
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema}

-- name: columns
SELECT attname, format_type(atttypid, atttypmod)
FROM pg_attribute
    JOIN pg_class c ON c.oid = attrelid
    JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relname = %s AND attnum > 0 AND NOT attisdropped

-- name: types
-- Reads nothing and tells what it would read; and nobody alters the table before the transaction ends.
SELECT {fields} FROM ONLY {table} WHERE false

-- name: lock
-- Held to the end of the transaction, so that of many gateways that start at once one makes the table.
SELECT pg_advisory_xact_lock(hashtextextended('edgedepot ' || %s, 0))

-- name: create_table
-- Names sort by their bytes, as they do in every other storage.
CREATE TABLE IF NOT EXISTS {table} (
    gateway_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    "timestamp" timestamptz NOT NULL,
    {fields},
    quality smallint,
    store_epoch bigint NOT NULL DEFAULT 0,
    gateway_seq bigint NOT NULL DEFAULT 0,
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT {key} PRIMARY KEY (gateway_id, device_id, "timestamp")
)

-- name: create_index
CREATE INDEX IF NOT EXISTS {name} ON {table} ("timestamp" DESC)

-- name: create_hypertable
SELECT {create_hypertable}(
    {table}::regclass, {time_column}, chunk_time_interval => {interval}, if_not_exists => {if_not_exists},
    migrate_data => true
)

-- name: add_column
ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {field} {type}

-- name: comment_on_column
COMMENT ON COLUMN {table}.{field} IS {text}

-- name: create_devices
CREATE TABLE IF NOT EXISTS {table} (
    gateway_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    name text,
    metadata jsonb NOT NULL DEFAULT '{{}}',
    PRIMARY KEY (gateway_id, device_id)
)

-- name: grant
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}

-- name: grant_schema
GRANT USAGE ON SCHEMA {schema} TO {role}

-- name: create_staging
-- Made once in a server session: making one for each batch took a tenth of the batch's time. Behind a pooler each
-- transaction may be in another session, so each asks.
CREATE TEMPORARY TABLE IF NOT EXISTS {staging} (
    gateway_id text,
    device_id text,
    "timestamp" timestamptz,
    store_epoch bigint,
    gateway_seq bigint,
    quality smallint,
    {fields}
) ON COMMIT DELETE ROWS

-- name: copy
COPY {table} ({keys}, {fields}) FROM STDIN (FORMAT BINARY)

-- name: check_now
-- What otherwise is found out at the commit.
SET CONSTRAINTS ALL IMMEDIATE

-- name: from_arrays
(
    SELECT gateway_id, device_id, '2000-01-01 00:00:00+00'::timestamptz + micros * interval '1 microsecond' AS "timestamp",
        store_epoch, gateway_seq, quality, {fields}
    FROM unnest({arrays}) AS a (gateway_id, device_id, micros, store_epoch, gateway_seq, quality, {fields})
)

-- name: spans
-- Between which times the readings of a batch are, for each device and hour.
SELECT gateway_id, device_id, min("timestamp"), max("timestamp")
FROM {staging}
GROUP BY gateway_id, device_id, date_bin('1 hour', "timestamp", '2000-01-01 00:00:00+00')

-- name: known
-- What the table holds in the spans of a batch: one look into the index for each, whatever the server knows or not of
-- what is in the table (OFFSET keeps it from another plan). The extent of them all lets it leave out chunks.
WITH known AS MATERIALIZED (
    SELECT device_id, "timestamp", store_epoch, gateway_seq
    FROM unnest(%(devices)s::text[], %(lows)s::timestamptz[], %(highs)s::timestamptz[]) AS span (device, low, high)
        CROSS JOIN LATERAL (
            SELECT t.device_id, t."timestamp", t.store_epoch, t.gateway_seq FROM {table} AS t
            WHERE t.gateway_id = %(gateway)s AND t.device_id = span.device
                AND t."timestamp" BETWEEN span.low AND span.high AND t."timestamp" BETWEEN %(low)s AND %(high)s
            OFFSET 0
        ) AS t
)

-- name: there
-- Whether a row is in the table, in this version or a newer one.
EXISTS (
    SELECT FROM known AS k
    WHERE k.device_id = s.device_id AND k."timestamp" = s."timestamp"
        AND (k.store_epoch, k.gateway_seq) >= (s.store_epoch, s.gateway_seq)
)

-- name: upsert_versions
-- Nothing older overwrites newer, and a merge never nulls a value. What is there already is left out before: ON CONFLICT
-- would lock each of those rows, and log that, which takes twice as long.
{known_before}
INSERT INTO {table} AS t (gateway_id, device_id, "timestamp", store_epoch, gateway_seq, quality, {fields})
SELECT gateway_id, device_id, "timestamp", store_epoch, gateway_seq, quality, {fields}
FROM {source} AS s
WHERE {which} AND NOT {there_before}
ON CONFLICT (gateway_id, device_id, "timestamp") DO UPDATE SET
    {merges},
    quality = excluded.quality,
    store_epoch = excluded.store_epoch,
    gateway_seq = excluded.gateway_seq,
    received_at = excluded.received_at
WHERE (excluded.store_epoch, excluded.gateway_seq) > (t.store_epoch, t.gateway_seq)

-- name: upsert_direct
-- Rows without a version merge whatever version is there, and leave it as it is; equal ones change nothing. Of the
-- quality, "out of range" is what the merged values deserve, other flags stay.
INSERT INTO {table} AS t (gateway_id, device_id, "timestamp", quality, {fields})
SELECT gateway_id, device_id, "timestamp", quality, {fields}
FROM {source} AS s
WHERE {which}
ON CONFLICT (gateway_id, device_id, "timestamp") DO UPDATE SET
    {merges},
    quality = nullif(
        (coalesce(t.quality, 0) | coalesce(excluded.quality, 0)) & ~1 | CASE WHEN {outside} THEN 1 ELSE 0 END, 0
    ),
    received_at = excluded.received_at
WHERE ROW({merged}) IS DISTINCT FROM ROW({current})

-- name: missing
-- How many rows are not in the table; null for a table that leaves out none.
{known}
SELECT CASE WHEN {leaves_out} THEN (SELECT count(*) FROM {source} AS s WHERE NOT {there}) END

-- name: has_compression
EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = {name}::regclass AND compression_enabled
)

-- name: has_triggers
-- Ones that run before a row is written; the extension has one of its own, which writes it into a chunk.
EXISTS (
    SELECT FROM pg_trigger
    WHERE tgrelid = {name}::regclass AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 2 <> 0
        AND tgname <> 'ts_insert_blocker'
)

-- name: select
SELECT {columns} FROM {table} WHERE {where} ORDER BY {order} LIMIT %(limit)s

-- name: delete
DELETE FROM {table} WHERE {where}

-- name: values
-- What an aggregate is made of. `device` and `bucket` are constants where the call does not ask for them.
SELECT gateway_id, device_id, "timestamp", {device} AS device, {bucket} AS bucket, {field} AS value
FROM {table}
WHERE {where} AND {field} IS NOT NULL
{fence}

-- name: calculated
SELECT device, {label}, {function} FROM ({values}) AS v GROUP BY device, bucket ORDER BY device, bucket

-- name: first
SELECT DISTINCT ON (device, bucket) device, {label}, value FROM ({values}) AS v
ORDER BY device, bucket, "timestamp", gateway_id COLLATE "C", device_id COLLATE "C"

-- name: last
SELECT DISTINCT ON (device, bucket) device, {label}, value FROM ({values}) AS v
ORDER BY device, bucket, "timestamp" DESC, gateway_id COLLATE "C" DESC, device_id COLLATE "C" DESC

-- name: measurements
-- The tables of this schema that hold readings and may be read.
SELECT c.relname
FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
WHERE n.nspname = %(schema)s AND starts_with(c.relname, %(prefix)s) AND c.relkind IN ('r', 'p')
    AND a.attname = ANY(%(names)s)
    AND has_table_privilege(c.oid, 'SELECT')
GROUP BY c.relname
HAVING count(*) = cardinality(%(names)s)
ORDER BY c.relname

-- name: seen_of
SELECT device_id, min("timestamp") AS first_seen, max("timestamp") AS last_seen FROM {table} WHERE {where} GROUP BY 1

-- name: saved_of
-- Where gateways say different things of devices with one id, the first gateway's word counts.
SELECT DISTINCT ON (device_id) device_id, name, metadata FROM {table} WHERE {where} ORDER BY device_id, gateway_id

-- name: seen_nowhere
SELECT NULL::text AS device_id, NULL::timestamptz AS first_seen, NULL::timestamptz AS last_seen WHERE false

-- name: saved_nowhere
SELECT NULL::text AS device_id, NULL::text AS name, NULL::jsonb AS metadata WHERE false

-- name: devices
SELECT coalesce(seen.device_id, saved.device_id) COLLATE "C" AS device_id, name, coalesce(metadata, '{{}}') AS metadata,
    first_seen, last_seen
FROM (
    SELECT device_id, min(first_seen) AS first_seen, max(last_seen) AS last_seen FROM ({seen}) AS s GROUP BY device_id
) AS seen
    FULL JOIN ({saved}) AS saved ON saved.device_id = seen.device_id
ORDER BY 1

-- name: save_device
INSERT INTO {table} (gateway_id, device_id, name, metadata) VALUES (%s, %s, %s, %s)
ON CONFLICT (gateway_id, device_id) DO UPDATE SET name = excluded.name, metadata = excluded.metadata

-- name: table_exists
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s AND relname = %s
)

-- name: hypertable_info
SELECT hypertable_name, num_chunks::integer, pg_size_pretty(bytes) AS total_size, bytes AS total_bytes,
    compression_enabled, (
        SELECT time_interval FROM timescaledb_information.dimensions d
        WHERE (d.hypertable_schema, d.hypertable_name) = (h.hypertable_schema, h.hypertable_name)
            AND dimension_type = 'Time'
        ORDER BY dimension_number LIMIT 1
    ) AS chunk_time_interval
FROM timescaledb_information.hypertables h
    CROSS JOIN LATERAL {size}(format('%%I.%%I', hypertable_schema, hypertable_name)::regclass) AS bytes
WHERE hypertable_schema = %s AND hypertable_name = %s

-- name: drop_chunks
SELECT {drop_chunks}({table}::regclass, older_than => {edge})

-- name: enable_compression
ALTER TABLE {table} SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'gateway_id, device_id',
    timescaledb.compress_orderby = '"timestamp"'
)

-- name: remove_policy
SELECT {remove}({table}::regclass, if_exists => true)

-- name: add_policy
SELECT {add}({table}::regclass, {after})

-- name: create_view
CREATE MATERIALIZED VIEW {view} WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT {bucket} AS bucket, gateway_id, device_id, {result} AS result
FROM {table}
WHERE {field} IS NOT NULL
GROUP BY 1, 2, 3
{data}

-- name: drop_view
DROP MATERIALIZED VIEW IF EXISTS {view}

-- name: add_refresh_policy
SELECT {add}({view}::regclass, start_offset => {start}, end_offset => {end}, schedule_interval => {schedule})

-- name: refresh
CALL {refresh}({view}::regclass, {start}, {end})

-- name: continuous_aggregates
SELECT substr(view_name, length(%(prefix)s) + 1) AS name, a.hypertable_name AS table, j.schedule_interval,
    (j.config ->> 'start_offset')::interval AS start_offset, (j.config ->> 'end_offset')::interval AS end_offset,
    nullif(s.last_run_started_at, '-infinity') AS last_run, s.last_run_status
FROM timescaledb_information.continuous_aggregates a
    LEFT JOIN timescaledb_information.jobs j ON j.proc_name = 'policy_refresh_continuous_aggregate'
        -- Older versions name the table behind the view, newer ones the view.
        AND (j.hypertable_schema, j.hypertable_name) IN (
            (a.materialization_hypertable_schema, a.materialization_hypertable_name), (a.view_schema, a.view_name)
        )
    LEFT JOIN timescaledb_information.job_stats s ON s.job_id = j.job_id
WHERE view_schema = %(schema)s AND starts_with(view_name, %(prefix)s)
ORDER BY view_name

-- name: query_view
SELECT {columns}device_id, bucket, result
FROM {view}
WHERE (%(gateway_id)s::text IS NULL OR gateway_id = %(gateway_id)s)
    AND (%(device)s::text IS NULL OR device_id = %(device)s)
    AND (%(start)s::timestamptz IS NULL OR bucket >= %(start)s)
    AND (%(end)s::timestamptz IS NULL OR bucket < %(end)s)
ORDER BY bucket, gateway_id, device_id
