"""All benchmarks, one after the other, with the options that each of them takes."""

from tests.benchmarks import (
    footprint,
    influx_encoding,
    influx_writing,
    mqtt_to_durable,
    serial_to_durable,
    store_aggregate,
    store_card,
    store_ingest,
    store_latency,
    store_open,
    store_others,
    store_read,
    store_retention,
    store_write,
    sync_drain,
    timescale_aggregate,
    timescale_writing,
)

for benchmark in (
    mqtt_to_durable,
    serial_to_durable,
    footprint,
    influx_encoding,
    influx_writing,
    timescale_writing,
    timescale_aggregate,
    sync_drain,
    store_write,
    store_ingest,
    store_latency,
    store_card,
    store_retention,
    store_read,
    store_aggregate,
    store_open,
    store_others,
):
    benchmark.main()
