"""`python -m tests.servers fetch` fetches every server; `... timescale` and `... mosquitto` run one by hand."""

import argparse
import sys
import threading

from tests.servers import ServerError
from tests.servers.flux import fetch_flux_analyser
from tests.servers.influxdb1 import fetch_influxdb1
from tests.servers.mosquitto import Mosquitto, fetch_mosquitto
from tests.servers.pglite import fetch_pglite
from tests.servers.socat import fetch_socat
from tests.servers.timescale import TimescaleServer, fetch_plain_postgres, fetch_timescale
from tests.servers.victoria import fetch_victoria_metrics


def fetch() -> None:
    """Everything the tests need; at once when it is there already."""
    servers = (fetch_timescale, fetch_mosquitto, fetch_socat, fetch_influxdb1, fetch_victoria_metrics)
    for fetch_one in (*servers, fetch_plain_postgres, fetch_flux_analyser, fetch_pglite):
        fetch_one()


def timescale() -> None:
    with TimescaleServer() as server:
        _show(server.url(server.create_database()))


def mosquitto() -> None:
    with Mosquitto() as broker:
        _show(broker.url)


def _show(url: str) -> None:
    """Print the address and wait for Ctrl-C."""
    print(url, flush=True)
    print("Ctrl-C stops it and removes its data.", file=sys.stderr)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print(file=sys.stderr)


def main() -> int:
    actions = {action.__name__: action for action in (fetch, timescale, mosquitto)}
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("action", choices=actions)
    try:
        actions[parser.parse_args().action]()
    except ServerError as exc:
        print(f"servers: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
