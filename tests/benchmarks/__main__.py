"""All benchmarks, one after the other, with the options that each of them takes."""

from tests.benchmarks import (
    footprint,
    influx_encoding,
    influx_writing,
    mqtt_to_durable,
    serial_to_durable,
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
):
    benchmark.main()
