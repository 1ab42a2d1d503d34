"""Everything that was accepted arrives, once and unchanged, whatever is killed or cut on the way."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end import faults, judge
from tests.end_to_end.faults import Fault
from tests.end_to_end.site import Load, Servers, Site
from tests.servers.mosquitto import Mosquitto
from tests.servers.proxy import TcpProxy
from tests.servers.socat import PtyPair
from tests.servers.timescale import TimescaleServer

SEED = int(os.environ.get("END_TO_END_SEED") or random.SystemRandom().randrange(1_000_000))
"""Of the faults' moments; printed, so that a run can be done again with END_TO_END_SEED."""

FULL = Load(devices=20, messages=10_000, broken_messages=100, lines=5_000, broken_lines=50, duration=60, seed=SEED)
SHORT = Load(devices=4, messages=400, broken_messages=8, lines=200, broken_lines=4, duration=4, seed=SEED)

ONE_FAULT = {
    "gateway": [Fault(0.4, "kill gateway"), Fault(0.4, "start gateway")],
    "starting gateway": [
        Fault(0.3, "kill gateway"),
        Fault(0.35, "start gateway"),
        Fault(0.4, "kill gateway"),
        Fault(0.45, "start gateway"),
    ],
    "database": [Fault(0.4, "kill database"), Fault(0.7, "start database")],
    "broker": [Fault(0.4, "kill broker"), Fault(0.6, "start broker")],
    "link": [Fault(0.4, "cut link"), Fault(0.7, "mend link")],
    "link while the gateway starts": [
        Fault(0.3, "cut link"),
        Fault(0.35, "kill gateway"),
        Fault(0.4, "start gateway"),
        Fault(0.7, "mend link"),
    ],
}


@pytest.fixture
def servers(
    mosquitto: Mosquitto,
    pty_pair: PtyPair,
    timescale_server: TimescaleServer,
    timescale_url: str,
    proxy: Callable[[str, int], TcpProxy],
) -> Iterator[Servers]:
    yield Servers(mosquitto, pty_pair, timescale_server, timescale_url, proxy("127.0.0.1", timescale_server.port))
    for server in (mosquitto, timescale_server):  # a test that failed between a kill and the start
        if not server.running:
            server.start()


@pytest.mark.parametrize("plan", [[], *ONE_FAULT.values()], ids=["nothing", *ONE_FAULT])
def test_arrives_through_one_fault(servers: Servers, tmp_path: Path, plan: list[Fault]) -> None:
    with Site(servers, tmp_path, SHORT, line_format="json") as site:
        site.run(plan)
        stop_and_judge(site)


def test_arrives_through_all_faults(servers: Servers, tmp_path: Path) -> None:
    plan = faults.make_plan(SEED)
    counts = Counter(fault.name for fault in plan)
    assert counts["kill gateway"] >= 5
    assert (counts["kill database"], counts["kill broker"], counts["cut link"]) == (1, 1, 3)
    with Site(servers, tmp_path, FULL) as site:
        done = site.run(plan)
        print(f"END_TO_END_SEED={SEED}: {', '.join(f'{name} at {moment:.2f} s' for moment, name in done)}")
        assert len(done) == len(plan)
        stop_and_judge(site)


def stop_and_judge(site: Site) -> None:
    """The gateway stops in order, every reading is there, and the books agree."""
    assert site.gateway.terminate() == 0, site.gateway.log_tail()
    sent, held = site.sent(), site.held()
    verdict = judge.judge(sent, held)
    print(verdict)
    assert all(message.heard for message in sent.messages), "a message came before the gateway's session was there"
    assert verdict.required > 0
    assert verdict.clean, f"{verdict}\n{site.gateway.log_tail()}"
    assert judge.is_hypertable(site.servers.url)

    rejected = site.gateway.rejected()
    code, books = site.gateway.ledger()
    print({name: dict(books[name]) for name in ("sources", "upstreams")})
    assert not judge.judge_rejected(sent, rejected, site.gateway.lives)
    assert not judge.judge_books(books, held, rejected, site.gateway.lives)
    assert code == 0
