"""Readings in PostgreSQL with TimescaleDB: many gateways, one hypertable per measurement. Needs psycopg 3.

storage.py      TimescaleDBStorage: the contract, call by call
server.py       the url and how to connect; link.py keeps one connection, with its lock and its deadlines
schema.py       tables from reading models, made and widened when a model is first written
write.py        a batch: COPY, or COPY into a staging table and a guarded upsert
cells.py        its rows, checked one by one; encode.py makes COPY's bytes of them
read.py         queries; aggregate.py aggregates
statements.sql  the SQL, by name; errors.py what psycopg raises, by SQLSTATE
"""

try:
    import psycopg as psycopg
except ImportError as exc:
    raise ImportError("TimescaleDBStorage needs psycopg 3: pip install 'edgedepot[timescale]'") from exc
