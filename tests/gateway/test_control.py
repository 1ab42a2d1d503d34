"""The control socket."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedepot.control import ControlServer, ask, socket_path


def fail() -> None:
    raise KeyError("nothing")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    server = ControlServer(tmp_path / "gateway.db.sock", {"status": lambda: {"pid": 7}, "wrong": fail})
    server.start()
    yield server
    server.stop()


def talk(path: Path, question: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(question)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answer:
            found: dict[str, object] = json.loads(answer.readline())
            assert answer.read() == b"", "the server says one line and hangs up"
            return found


def test_it_lies_beside_the_store() -> None:
    assert socket_path(Path("/var/lib/gateway.db")) == Path("/var/lib/gateway.db.sock")


def test_a_question_gets_its_answer_again_and_again(server: ControlServer) -> None:
    assert [ask(server.path, "status") for _ in range(3)] == [{"pid": 7}] * 3


def test_it_is_for_its_owner_alone(server: ControlServer) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "question", [b"", b"\n", b"hello\n", b"3\n", b"{}\n", b'{"ask": 3}\n', b'{"ask": "x"}\n', b"\xff"]
)
def test_nonsense_is_told_so(server: ControlServer, question: bytes) -> None:
    assert talk(server.path, question) == {"error": 'not understood, expected a line such as {"ask": "status"}'}
    assert ask(server.path, "status") == {"pid": 7}


def test_a_question_too_long_is_not_read_to_its_end(server: ControlServer) -> None:
    assert "error" in talk(server.path, b" " * 4096)


def test_an_answer_that_fails_is_an_error_and_no_end(server: ControlServer) -> None:
    assert talk(server.path, b'{"ask": "wrong"}') == {"error": "KeyError: 'nothing'"}
    assert ask(server.path, "wrong") is None
    assert ask(server.path, "status") == {"pid": 7}


def test_a_client_that_says_nothing_is_left_after_a_while(server: ControlServer) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(server.path))
        assert ask(server.path, "status") == {"pid": 7}


def test_a_dead_process_leaves_a_socket_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert ask(path, "status") is None
    server = ControlServer(path, {"status": lambda: 1})
    server.start()
    assert ask(path, "status") == 1
    server.stop()
    assert not path.exists()
    assert ask(path, "status") is None


def test_a_folder_too_deep_for_a_socket_address_does(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    server = ControlServer(folder / "gateway.db.sock", {"status": lambda: 1})
    server.start()
    assert ask(server.path, "status") == 1
    server.stop()
    assert list(folder.iterdir()) == []


def test_without_a_place_for_it_the_gateway_does_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = ControlServer(tmp_path / "nowhere" / "gateway.db.sock", {"status": lambda: 1})
    server.start()
    assert "cannot listen on" in caplog.text
    server.stop()
