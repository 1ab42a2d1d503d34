"""The control socket: who may use it, and what clients do that are broken, slow, hostile, or of another release."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, InvalidValue, SQLiteStorage, StorageBusy, StorageError
from edgedepot.control import ControlServer, ask, socket_path
from edgedepot.requests import SIZE_LIMIT, Drop, Removed, RemoveUpstream, Replay, Status, remove_cursor
from tests.gateway.scripted import DEADLINE, eventually

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NONSENSE = [
    b"",
    b"\n",
    b"hello\n",
    b"3\n",
    b"{}\n",
    b"\xff\n",
    b"[" * 100_000 + b"\n",
    b'{"version": 1}\n',
    b'{"version": 1, "do": "x"}\n',
    b'{"version": 1, "do": "status", "loudly": true}\n',
    b'{"version": 1, "do": "replay", "upstream": 3}\n',
    b'{"version": 1, "do": "drop", "number": 9223372036854775808}\n',
    b'{"version": 1, "do": "replay", "start": "2026-01-01T00:00:00"}\n',
    b'{"version": 1, "do": "replay", "reason": "\xff"}\n',
    b'{"version": "1", "do": "status"}\n',
]


class Desk:
    """A store of which a test says how it stands."""

    def __init__(self, store: SQLiteStorage, status: Callable[[], dict[str, Any]]) -> None:
        self.store = store
        self.status = status

    def remove_upstream(self, name: str) -> Removed:
        return remove_cursor(self.store, name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "gateway.db") as store:
        yield store


Serve = Callable[..., ControlServer]


@pytest.fixture
def serve(store: SQLiteStorage, tmp_path: Path) -> Iterator[Serve]:
    servers: list[ControlServer] = []

    def start(
        status: Callable[[], dict[str, Any]] = lambda: {"pid": 7},
        patience: float = DEADLINE,
        path: Path = tmp_path / "gateway.db.sock",
        look: float = DEADLINE,
    ) -> ControlServer:
        servers.append(ControlServer(path, Desk(store, status), patience, look))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE)
    client.connect(str(path))
    return client


def has_hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:  # before it had read all that was sent
        return True


def talk(path: Path, line: bytes) -> dict[str, Any]:
    """What the server says to a line: one line, and then it hangs up."""
    with connect(path) as client:
        with contextlib.suppress(OSError):  # it does not read to the end what is too long
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answer:
            found: dict[str, Any] = json.loads(answer.readline())
        assert has_hung_up(client)
    assert found.pop("version") == 1
    return found


def test_it_lies_beside_the_store() -> None:
    assert socket_path(Path("/var/lib/gateway.db")) == Path("/var/lib/gateway.db.sock")


def test_a_question_gets_its_answer_again_and_again(serve: Serve) -> None:
    path = serve().path
    assert [ask(path, Status()) for _ in range(3)] == [{"pid": 7}] * 3
    assert talk(path, b'{"version": 1, "do": "status"}\n') == {"answer": {"pid": 7}}


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_it_is_for_its_owner_alone_whatever_the_umask(serve: Serve, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = serve().path
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_told_so(serve: Serve, line: bytes) -> None:
    path = serve().path
    found = talk(path, line)
    assert found["error"] == "InvalidValue"
    assert found["message"].startswith("not understood: ")
    assert found["message"].endswith('expected a line such as {"version": 1, "do": "status"}')
    assert ask(path, Status()) == {"pid": 7}


def test_a_request_too_long_is_not_read_to_its_end(serve: Serve) -> None:
    path = serve().path
    expected = {"error": "InvalidValue", "message": f"the request is longer than {SIZE_LIMIT} bytes"}
    assert talk(path, b" " * (SIZE_LIMIT + 1)) == expected
    assert talk(path, b" " * (64 * SIZE_LIMIT)) == expected
    with pytest.raises(InvalidValue, match=rf"a request of \d+ bytes, at most {SIZE_LIMIT} are read"):
        ask(path, Drop(reason="x" * SIZE_LIMIT))


def test_what_no_line_can_hold_is_refused_before_it_is_sent(serve: Serve) -> None:
    with pytest.raises(InvalidValue, match=r"'\\udcff' is no text in UTF-8"):
        ask(serve().path, Drop(device="\udcff"))


def test_another_release_is_told_so(serve: Serve) -> None:
    path = serve().path
    line = b'{"version": 2, "please": "status"}\n'
    message = "found a request of version 2, expected 1: the gateway is of another release"
    assert talk(path, line) == {"error": "ConfigError", "message": message}


def test_errors_of_ours_are_raised_again_in_the_same_words(serve: Serve, store: SQLiteStorage) -> None:
    store.add_cursor("central")
    path = serve().path
    for request in (Replay(upstream="centrall"), Drop(upstream="centrall"), RemoveUpstream(name="centrall")):
        with pytest.raises(InvalidValue) as there:
            ask(path, request)
        with pytest.raises(InvalidValue) as here:
            request.run(Desk(store, dict))
        assert str(there.value) == str(here.value)
        assert str(here.value) == 'no upstream "centrall" (did you mean "central"?); the store knows central'


def test_a_fault_is_an_error_and_no_end(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> dict[str, Any]:
        raise KeyError("nothing")

    path = serve(fail).path
    for _ in range(20):  # more than are served at once
        with pytest.raises(StorageError, match="the gateway failed at this, see its log: KeyError: 'nothing'"):
            ask(path, Status())
    assert "control socket: Status failed" in caplog.text


def test_clients_that_say_nothing_hold_up_nobody_for_long(serve: Serve) -> None:
    path = serve(patience=0.2).path
    silent = [connect(path) for _ in range(30)]
    assert ask(path, Status()) == {"pid": 7}
    for client in silent:
        assert client.recv(1) == b"", "it was not left"
        client.close()


def test_a_client_that_never_comes_to_an_end_is_left(serve: Serve) -> None:
    """What comes now and then does not count as patience renewed."""
    with connect(serve(patience=0.2).path) as client:

        def left() -> bool:
            try:
                client.sendall(b" ")
            except OSError:
                return True
            return False

        eventually(left)


def test_clients_that_vanish_or_do_not_listen_do_no_harm(serve: Serve) -> None:
    path = serve(lambda: {"much": "x" * 1_000_000}, patience=0.2).path
    deaf = []
    for _ in range(20):
        with connect(path) as client:
            client.sendall(b'{"version": 1, "do": "sta')
        with connect(path) as client:
            client.sendall(b'{"version": 1, "do": "status"}\n')
        deaf.append(connect(path))
        deaf[-1].sendall(b'{"version": 1, "do": "status"}\n')
    answer = ask(path, Status())
    assert answer is not None
    assert len(answer["much"]) == 1_000_000
    for client in deaf:
        client.close()


def test_many_ask_at_once(serve: Serve) -> None:
    path = serve().path
    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(lambda _: ask(path, Status()), range(300))) == [{"pid": 7}] * 300


def test_a_stop_lets_a_request_come_to_its_end_and_waits_for_no_one_who_is_silent(serve: Serve) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        begun.set()
        assert go_on.wait(DEADLINE)
        return {"done": True}

    server = serve(slow)
    with connect(server.path) as silent, ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, server.path, Status())
        assert begun.wait(DEADLINE)
        stopped = pool.submit(server.stop, 2 * DEADLINE)
        eventually(lambda: not server.path.exists())
        with silent.makefile("rb") as heard:
            assert b"not understood" in heard.read()
        assert not stopped.done()
        go_on.set()
        assert asked.result(DEADLINE) == {"done": True}
        stopped.result(DEADLINE)
    assert ask(server.path, Status()) is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgedepot-control")]


def test_a_stop_waits_no_longer_than_it_was_told(serve: Serve) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def stuck() -> dict[str, Any]:
        begun.set()
        assert go_on.wait(DEADLINE)
        return {}

    server = serve(stuck)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server.path, Status())
        assert begun.wait(DEADLINE)
        server.stop(timeout=0.1)
        assert not asked.done()
        go_on.set()
        assert asked.result(DEADLINE) == {}


def test_a_dead_process_leaves_a_socket_that_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "gateway.db.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert ask(path, Status()) is None
    server = serve()
    assert ask(path, Status()) == {"pid": 7}
    server.stop()
    assert not path.exists()
    assert ask(path, Status()) is None


def test_a_socket_that_has_lost_its_name_is_made_anew_where_the_store_is(serve: Serve, tmp_path: Path) -> None:
    """Somebody removes it; or its file system is unmounted, which an open socket would keep there, and comes back."""
    folder = tmp_path / "card"
    folder.mkdir()
    (folder / "gateway.db").touch()
    server = serve(path=folder / "gateway.db.sock", look=0.02)
    server.path.unlink()
    eventually(server.path.exists)
    assert ask(server.path, Status()) == {"pid": 7}
    folder.rename(tmp_path / "gone")
    folder.mkdir()
    eventually(lambda: server._socket is None)
    assert ask(server.path, Status()) is None
    assert list(folder.iterdir()) == []
    (folder / "gateway.db").touch()
    eventually(server.path.exists)
    assert ask(server.path, Status()) == {"pid": 7}


def test_a_folder_too_deep_for_a_socket_address_does(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    server = serve(path=folder / "gateway.db.sock")
    assert ask(server.path, Status()) == {"pid": 7}
    server.stop()
    assert list(folder.iterdir()) == []


def test_a_name_too_long_for_a_socket_address_is_said(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(path=tmp_path / ("g" * 110 + ".sock"))
    assert "a socket's name may have 107 bytes; give the store a shorter one" in caplog.text
    assert ask(server.path, Status()) is None


def test_without_a_place_for_it_the_gateway_does_without(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(path=tmp_path / "nowhere" / "gateway.db.sock")
    assert "cannot listen on" in caplog.text
    assert ask(server.path, Status()) is None


# -- other gateways ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "expected"),
    [
        (b"", StorageError, "the gateway hung up without an answer; it may have been stopped"),
        (b'{"version": 1, "answ', StorageError, "the gateway hung up without an answer"),
        (b"HTTP/1.1 400 Bad Request\n", StorageError, "answers something else, is that a gateway's socket?"),
        (b"[]\n", StorageError, "answers something else"),
        (b"{}\n", StorageError, "answers something else"),
        (b'{"version": 2, "answer": {}}\n', ConfigError, "found an answer of version 2, expected 1: the gateway runs"),
        (b'{"version": 1, "error": "Odd", "message": "why"}\n', StorageError, "^why$"),
        (b'{"version": 1, "error": "annotations", "message": "why"}\n', StorageError, "^why$"),
    ],
)
def test_answers_of_others(tmp_path: Path, answer: bytes, error: type[Exception], expected: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(tmp_path / "other.sock"))
        listener.listen()
        asked = pool.submit(ask, tmp_path / "other.sock", Status())
        client, _ = listener.accept()
        with client:
            assert client.recv(1000) == b'{"do":"status","version":1}\n'
            client.sendall(answer)
        with pytest.raises(error, match=expected):
            asked.result(DEADLINE)


def test_a_gateway_that_never_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "other.sock"))
        listener.listen()
        with pytest.raises(StorageBusy, match=r"no answer within 0.1 s; whether it will be done is not known"):
            ask(tmp_path / "other.sock", Status(), timeout=0.1)


# -- other users ------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def ask_as(user: int, path: Path) -> str:
    """What a process of another user gets to hear."""
    code = (
        "import sys, os\n"
        "from pathlib import Path\n"
        "from edgedepot.control import ask\n"
        "from edgedepot.requests import Status\n"
        "from edgedepot.storage.errors import EdgeDepotError\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "try:\n    print(ask(Path(sys.argv[2]), Status()))\n"
        "except EdgeDepotError as exc:\n    print(type(exc).__name__, exc)\n"
    )
    command = [sys.executable, "-c", code, str(user), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


WHO = "the gateway that is running takes commands from root only, and this is nobody: try it as that user"


@needs_root
def test_another_user_cannot_reach_it(serve: Serve, open_folder: Path) -> None:
    path = serve(path=open_folder / "gateway.db.sock").path
    assert ask_as(NOBODY, path) == f"StorageLocked {path}: {WHO}, such as by sudo -u root"
    assert ask_as(0, path) == "{'pid': 7}"


@needs_root
def test_another_user_is_refused_also_where_the_socket_is_open_to_all(
    serve: Serve, open_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = serve(path=open_folder / "gateway.db.sock").path
    path.chmod(0o666)
    assert ask_as(NOBODY, path) == f"StorageLocked {WHO}, such as by sudo -u root"
    assert "control socket: refused process" in caplog.text
    assert caplog.text.rstrip().endswith("of nobody")


@needs_root
def test_root_may_use_another_users(open_folder: Path) -> None:
    """The gateway runs as nobody; root reaches it, and a third user hears whose it is."""
    os.chown(open_folder, NOBODY, NOBODY)
    code = (
        "import encodings.ascii, os, sys\n"  # now, while it may read them
        "from pathlib import Path\n"
        "from edgedepot import Gateway, SQLiteStorage\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "with Gateway(Path(sys.argv[2])):\n    print('runs', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(NOBODY), str(open_folder / "gateway.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as gateway:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == b"runs\n"
        path = socket_path(open_folder / "gateway.db")
        answer = ask(path, Status())
        assert answer is not None
        assert answer["pid"] == gateway.pid
        assert "takes commands from nobody and root only, and this is #12345: try it as" in ask_as(12345, path)
    assert gateway.returncode == 0
