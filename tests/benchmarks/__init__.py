"""Benchmarks: what the product costs beside the least that the same job can cost, measured in the same run.

    python -m tests.benchmarks                      all of these:
    python -m tests.benchmarks.mqtt_to_durable      messages from the wire to committed and acknowledged
    python -m tests.benchmarks.serial_to_durable    32 serial lines, share of one core
    python -m tests.benchmarks.footprint            memory and start of an idle gateway
    python -m tests.benchmarks.influx_encoding      readings as line protocol
    python -m tests.benchmarks.influx_writing       readings into a server that speaks InfluxDB's protocol
    python -m tests.benchmarks.timescale_writing    readings into a TimescaleDB
    python -m tests.benchmarks.timescale_aggregate  an hourly average over a million rows in a TimescaleDB
    python -m tests.benchmarks.sync_drain           a backlog into a TimescaleDB while fresh readings come in
    python -m tests.benchmarks.store_write          dicts and JSON to durable in the local store
    python -m tests.benchmarks.store_ingest         the same at a million rows and at none
    python -m tests.benchmarks.store_latency        from put to durable at 20,000 readings a second
    python -m tests.benchmarks.store_card           bytes that reach the device (needs root)
    python -m tests.benchmarks.store_retention      letting 600,000 old readings go beside a writer
    python -m tests.benchmarks.store_read           the newest readings, and a range
    python -m tests.benchmarks.store_aggregate      a year of one device by hour, day and month
    python -m tests.benchmarks.store_open           opening after SIGKILL; a long backlog in 64 MiB
    python -m tests.benchmarks.store_others         what other libraries take to write the same

Each prints a table, or JSON with `--json`; `--scale 0.05` does a twentieth of the work (the figures then say little),
and `--long` has ten times the rows where the number of rows is what matters.
Rounds of floor and product alternate, and their medians are compared: the ratio carries over to another machine, the
figures do not. In both cases what is measured runs in a process of its own.
"""
