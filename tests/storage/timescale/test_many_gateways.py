"""50 processes start at once as 50 gateways, and write into one hypertable that is not there yet."""

import multiprocessing

from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Look
from tests.storage.timescale.gateways import BATCH, BATCHES, run

GATEWAYS = 50


def test_every_row_is_there_once(timescale_server: TimescaleServer, timescale_url: str, look: Look) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.storage.timescale.gateways"])  # all fork from one that has imported us
    together = context.Barrier(GATEWAYS)
    pipes = [context.Pipe(duplex=False) for _ in range(GATEWAYS)]
    gateways = [
        context.Process(target=run, args=(timescale_url, number, together, done), daemon=True)
        for number, (_, done) in enumerate(pipes)
    ]
    for gateway in gateways:
        gateway.start()
    assert len({gateway.pid for gateway in gateways}) == GATEWAYS
    for gateway in gateways:
        gateway.join(60)
    assert [gateway.exitcode for gateway in gateways] == [0] * GATEWAYS
    assert [end.recv() for end, _ in pipes] == [BATCH * BATCHES] * GATEWAYS
    total = GATEWAYS * BATCH * BATCHES
    assert look("SELECT count(*), count(DISTINCT (gateway_id, device_id, timestamp)) FROM weather") == [(total, total)]
    assert look("SELECT count(*) FROM timescaledb_information.hypertables") == [(1,)]
    assert "deadlock" not in timescale_server.log.read_text(errors="replace")
