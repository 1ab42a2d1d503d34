"""50 processes write as 50 gateways into one hypertable that is not there yet."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Look
from tests.storage.timescale.gateways import BATCH, BATCHES, run

GATEWAYS = 50


def test_every_row_is_there_once(timescale_server: TimescaleServer, timescale_url: str, look: Look) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.storage.timescale.gateways"])  # all fork from one that has imported us
    with ProcessPoolExecutor(GATEWAYS, mp_context=context) as pool:
        futures = [pool.submit(run, timescale_url, number) for number in range(GATEWAYS)]
        assert [future.result(60) for future in futures] == [BATCH * BATCHES] * GATEWAYS
    total = GATEWAYS * BATCH * BATCHES
    assert look("SELECT count(*), count(DISTINCT (gateway_id, device_id, timestamp)) FROM weather") == [(total, total)]
    assert look("SELECT count(*) FROM timescaledb_information.hypertables") == [(1,)]
    assert "deadlock" not in timescale_server.log.read_text(errors="replace")
