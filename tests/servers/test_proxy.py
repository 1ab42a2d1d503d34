"""The proxy's faults, as clients and a real server see them."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from socketserver import BaseRequestHandler, ThreadingTCPServer

import psycopg
import pytest

from tests.servers import ServerError
from tests.servers.process import free_port, wait_until
from tests.servers.proxy import TcpProxy
from tests.servers.timescale import TimescaleServer

MakeProxy = Callable[[str, int], TcpProxy]


class Echo(BaseRequestHandler):
    """Sends everything back, and counts what it got."""

    received = 0

    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                Echo.received += len(data)
                self.request.sendall(data)
        except ConnectionResetError:
            pass


@pytest.fixture
def link(proxy: MakeProxy) -> Iterator[TcpProxy]:
    """A proxy before a server that echoes."""
    with ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield proxy("127.0.0.1", server.server_address[1])
        server.shutdown()
        thread.join()


def connect(link: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=10)


def echoed(client: socket.socket, data: bytes) -> bytes:
    """What comes back for `data`, which must fit into the buffers on the way."""
    client.sendall(data)
    answer = b""
    while len(answer) < len(data) and (piece := client.recv(65536)):
        answer += piece
    return answer


def assert_silent(client: socket.socket) -> None:
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)


def test_forwards_and_counts(link: TcpProxy) -> None:
    with connect(link) as client:
        assert echoed(client, b"there and back") == b"there and back"
        assert (link.bytes_up, link.bytes_down, link.connections) == (14, 14, 1)
    wait_until(lambda: link.connections == 0, "the proxy sees that the client left")


def test_passes_on_the_end_of_one_direction(link: TcpProxy) -> None:
    with connect(link) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answers:
            assert answers.read() == b"last words"


def test_large_transfer_against_a_slow_reader(link: TcpProxy) -> None:
    data = bytes(range(256)) * 65536  # 16 MB, beyond all buffers
    with connect(link) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        with client.makefile("rb") as answers:
            assert answers.read(len(data)) == data
        sender.join()
    assert (link.bytes_up, link.bytes_down) == (len(data), len(data))


def test_cut_resets_and_refuses_until_mended(link: TcpProxy) -> None:
    with connect(link) as client:
        assert echoed(client, b"x") == b"x"
        link.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(link)
        link.cut()
    link.mend()
    with connect(link) as client:
        assert echoed(client, b"y") == b"y"


def test_black_hole_keeps_connections_and_swallows(link: TcpProxy) -> None:
    before = Echo.received
    with connect(link) as talking, connect(link) as idle:
        assert echoed(talking, b"x") + echoed(idle, b"x") == b"xx"
        link.blackhole()
        talking.sendall(b"swallowed")
        with connect(link) as newcomer:
            newcomer.sendall(b"swallowed")
            assert_silent(talking)
            assert_silent(newcomer)
            assert (Echo.received - before, link.bytes_up) == (2, 2)
            link.mend()
            for client in (talking, newcomer):  # their streams have a hole
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        assert echoed(idle, b"still there") == b"still there"


def test_black_hole_hides_that_a_side_is_gone(link: TcpProxy) -> None:
    with connect(link) as client:
        assert echoed(client, b"x") == b"x"
        link.blackhole()
    with connect(link) as newcomer:
        assert_silent(newcomer)
        assert link.connections == 2
    link.mend()
    wait_until(lambda: link.connections == 0, "mended, the target hears of it")


def test_target_down(proxy: MakeProxy) -> None:
    link = proxy("127.0.0.1", free_port())
    with pytest.raises(ConnectionResetError), connect(link) as client:  # at once, or as soon as it listens
        client.recv(1)


@pytest.fixture
def database(proxy: MakeProxy, timescale_server: TimescaleServer, timescale_url: str) -> Iterator["Database"]:
    """A table behind a link."""
    with psycopg.connect(timescale_url, autocommit=True) as direct:
        direct.execute("CREATE TABLE r (x int)")
        link = proxy("127.0.0.1", timescale_server.port)
        yield Database(link, timescale_url.replace(str(timescale_server.port), str(link.port)), direct)


class Database:
    def __init__(self, link: TcpProxy, url: str, direct: psycopg.Connection[tuple[object, ...]]) -> None:
        self.link = link
        self.url = url
        self.direct = direct

    def rows(self) -> list[tuple[object, ...]]:
        return self.direct.execute("SELECT x FROM r ORDER BY x").fetchall()


def test_lost_answer_to_a_commit(database: Database) -> None:
    """The transaction stands, its client cannot know."""
    with psycopg.connect(database.url) as client:
        database.link.drop_answers(after=b"COMMIT")
        client.execute("INSERT INTO r VALUES (1)")
        with pytest.raises(psycopg.OperationalError):
            client.commit()
    database.link.wait_cut()
    assert database.rows() == [(1,)]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database.url)
    database.link.mend()
    with psycopg.connect(database.url) as client:
        client.execute("INSERT INTO r VALUES (2)")
    assert database.rows() == [(1,), (2,)]


def test_next_answer_lost(database: Database) -> None:
    """Without a mark it is the answer to BEGIN, so the row is not there."""
    with psycopg.connect(database.url) as client:
        database.link.drop_answers()
        with pytest.raises(psycopg.OperationalError):
            client.execute("INSERT INTO r VALUES (1)")
    database.link.wait_cut()
    assert database.rows() == []


def test_mark_in_two_pieces(link: TcpProxy) -> None:
    with connect(link) as client:
        link.drop_answers(after=b"COMMIT")
        assert echoed(client, b"INSERT COM") == b"INSERT COM"
        client.sendall(b"MIT")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    link.wait_cut()


def test_waiting_in_vain_for_the_cut(link: TcpProxy) -> None:
    with pytest.raises(ServerError, match=r"not cut after 0\.05 s, it forwards both ways"):
        link.wait_cut(0.05)


def test_switched_by_several_threads_under_traffic(link: TcpProxy) -> None:
    stop = threading.Event()

    def talk() -> int:
        answers = 0
        while not stop.is_set():
            try:
                with connect(link) as client:
                    client.settimeout(0.05)
                    answers += echoed(client, b"hello") == b"hello"
            except OSError:
                pass  # that is what the others do to it
        return answers

    def switch() -> None:
        for _ in range(20):
            for act in (link.cut, link.mend, link.blackhole, link.drop_answers, link.mend):
                act()

    with ThreadPoolExecutor() as pool:
        talkers = [pool.submit(talk) for _ in range(2)]
        switchers = [pool.submit(switch) for _ in range(2)]
        try:
            for switcher in switchers:
                switcher.result(timeout=60)
            link.mend()
        finally:
            stop.set()
        assert sum(talker.result(timeout=10) for talker in talkers) > 0
    with connect(link) as client:
        assert echoed(client, b"calm again") == b"calm again"
