"""Readings in InfluxDB 2: many gateways in one bucket, one measurement per reading model. Needs influxdb-client.

storage.py    InfluxDBStorage: the contract, call by call
settings.py   address, token and transport settings, checked without connecting
link.py       influxdb-client's clients, and how long to wait for them
line.py       readings as line protocol, by code made for each reading model
write.py      a batch: checked, encoded, sent in pieces that the server takes
flux.py       the text of every query; read.py runs them
tasks.py      bucket and downsampling task; downsampling.py has its text
errors.py     what influxdb-client and the server say, by HTTP status
"""

try:
    import influxdb_client as influxdb_client
except ImportError as exc:
    raise ImportError("InfluxDBStorage needs influxdb-client: pip install 'edgedepot[influxdb]'") from exc
