"""Benchmarks: what the product costs beside the least that the same job can cost, measured in the same run.

    python -m tests.benchmarks                      all of these:
    python -m tests.benchmarks.mqtt_to_durable      messages from the wire to committed and acknowledged
    python -m tests.benchmarks.serial_to_durable    32 serial lines, share of one core
    python -m tests.benchmarks.footprint            memory and start of an idle gateway
    python -m tests.benchmarks.influx_encoding      readings as line protocol
    python -m tests.benchmarks.influx_writing       readings into a server that speaks InfluxDB's protocol
    python -m tests.benchmarks.timescale_writing    readings into a TimescaleDB
    python -m tests.benchmarks.timescale_aggregate  an hourly average over a million rows in a TimescaleDB

Each prints a table, or JSON with `--json`; `--scale 0.05` does a twentieth of the work (the figures then say little).
Rounds of floor and product alternate, and their medians are compared: the ratio carries over to another machine, the
figures do not. In both cases what is measured runs in a process of its own.
"""
