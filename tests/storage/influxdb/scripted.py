"""An InfluxDB 2 of our own for tests of the conversation over HTTP. It executes no Flux.

It keeps points as InfluxDB does (a later one of the same identity overwrites field by field, a field keeps its type),
parses line protocol strictly with somebody else's parser, checks token, organisation and bucket, and knows buckets and
tasks. A query is noted and answered with the CSV that the test gave; whether a query is right, test_flux.py and a real
server have to say. Any request can be answered otherwise: with a status, slowly, partly or never.

Statuses and texts are those of InfluxDB 2.7 (https://docs.influxdata.com/influxdb/v2/api/).
"""

import gzip
import json
import re
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from line_protocol_parser import LineFormatError, parse_line

TOKEN, ORG, BUCKET = "s3cr3t-t0k3n", "farm", "iot"
VERSION = "v2.7.11"

TOO_OLD = (
    "points beyond retention policy dropped={count}",
    # of late: https://docs.influxdata.com/influxdb/v2/write-data/troubleshoot/
    "dropped {count} points outside retention policy of duration 72h0m0s - oldest point weather,device_id={device} at"
    " 2025-08-26T03:26:38Z dropped because it violates a Retention Policy Lower Bound at 2025-09-02T09:04:10.7684903Z,"
    " newest point weather,device_id={device} at 2025-08-26T03:31:28Z dropped because it violates a Retention Policy"
    " Lower Bound at 2025-09-02T09:04:10.7684903Z dropped={count} for database: 610c26001281c704 for retention policy:"
    " autogen",
)
"""What servers have said of points that are older than the bucket keeps."""

Tags = tuple[tuple[str, str], ...]
Identity = tuple[str, Tags, int]
"""Measurement, tags in order, time in nanoseconds."""


@dataclass(frozen=True)
class Answer:
    """How to answer one request in place of doing it. `content` may be longer than what is `sent` of it; then the
    connection is closed, or with `silent` kept open without a word more."""

    status: int = 204
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    sent: int | None = None
    silent: bool = False
    pause: float = 0.0
    """Seconds between any two bytes of the content."""
    code: str = "scripted"

    @property
    def body(self) -> bytes:
        if self.content is not None:
            return self.content
        return json.dumps({"code": self.code, "message": self.message}).encode() if self.message else b""


NEVER = Answer(sent=0, silent=True, status=0)
"""The request is taken, and that is all."""


@dataclass(frozen=True)
class Request:
    """A request as it came; `content` is the body without its compression."""

    method: str
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]
    content: bytes


class Refused(Exception):
    """The server's own answer to a request that it does not do."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, message, code=code)


class ScriptedInfluxDB:
    """One server on 127.0.0.1. As a context manager it starts and ends. What it holds may be looked at any time."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.points: dict[Identity, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.script: deque[Answer] = deque()
        """Answers for the next requests; when there is none left, requests are done."""
        self.csv = ""
        """What queries are answered."""
        self.largest = 1 << 40
        """Bytes that a write may have before compression."""
        self.oldest = 0
        """The time in nanoseconds before which the bucket keeps nothing."""
        self.too_old = TOO_OLD[0]
        self.conflict_status = 422
        self.buckets: list[dict[str, Any]] = [{"id": "b1", "name": BUCKET, "orgID": "o1", "retentionRules": []}]
        self.tasks: list[dict[str, Any]] = []
        self.types: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._scheme = "http"
        if context:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            self._scheme = "https"
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def writes(self) -> list[bytes]:
        """The bodies of all writes so far, also of those that were refused."""
        return [request.content for request in self.requests if request.path == "/api/v2/write"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    # -- what it does with requests, in the threads of its connections

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            if self.script:
                return self.script.popleft()
            try:
                return self._do(request)
            except Refused as refused:
                return refused.answer

    def _do(self, request: Request) -> Answer:
        if request.path == "/ping":
            return Answer(headers={"X-Influxdb-Version": VERSION, "X-Influxdb-Build": "OSS"})
        if request.headers.get("authorization") != f"Token {TOKEN}":
            raise Refused(401, "unauthorized", "unauthorized access")
        actions = {
            ("POST", "/api/v2/write"): self._write,
            ("POST", "/api/v2/query"): self._query,
            ("POST", "/api/v2/delete"): self._delete,
            ("GET", "/api/v2/orgs"): self._list_orgs,
            ("GET", "/api/v2/buckets"): self._list_buckets,
            ("POST", "/api/v2/buckets"): self._create_bucket,
            ("GET", "/api/v2/tasks"): self._list_tasks,
            ("POST", "/api/v2/tasks"): self._create_task,
        }
        if request.method == "PATCH" and request.path.startswith("/api/v2/tasks/"):
            return self._update_task(request)
        if (request.method, request.path) not in actions:
            raise Refused(404, "not found", "path not found")
        return actions[request.method, request.path](request)

    def _check_org(self, request: Request) -> None:
        if request.parameters.get("org") != ORG:
            raise Refused(404, "not found", f'organization name "{request.parameters.get("org")}" not found')

    def _check_place(self, request: Request) -> None:
        self._check_org(request)
        if request.parameters.get("bucket") not in [bucket["name"] for bucket in self.buckets]:
            raise Refused(404, "not found", f'bucket "{request.parameters.get("bucket")}" not found')

    def _write(self, request: Request) -> Answer:
        self._check_place(request)
        if len(request.content) > self.largest:
            raise Refused(413, "request too large", "unable to read data: points batch is too large")
        if not request.content:
            raise Refused(400, "invalid", "writing requires points")
        parsed = [_parse(line) for line in lines_of(request.content)]
        old = [point for point in parsed if point["time"] < self.oldest]
        conflicts = [reason for point in parsed if point not in old and (reason := self._keep(point))]
        # The others are kept. Only the first conflict is named, and what is too old only where there is none.
        if conflicts:
            raise self._partial(f"{conflicts[0]} dropped={len(conflicts)}")
        if old:
            raise self._partial(self.too_old.format(count=len(old), device=old[0]["tags"]["device_id"]))
        return Answer()

    def _partial(self, reason: str) -> Refused:
        message = f"failure writing points to database: partial write: {reason}"
        return Refused(self.conflict_status, "unprocessable entity", message)

    def _keep(self, point: dict[str, Any]) -> str | None:
        """Keep a point, or say why not."""
        measurement, fields = point["measurement"], point["fields"]
        for name, value in fields.items():
            ours = _type_of(value)
            theirs = self.types.get((measurement, name), ours)
            if ours != theirs:
                return (
                    f'field type conflict: input field "{name}" on measurement "{measurement}" is type {ours},'
                    f" already exists as type {theirs}"
                )
        for name, value in fields.items():
            self.types.setdefault((measurement, name), _type_of(value))
        identity = (measurement, tuple(sorted(point["tags"].items())), point["time"])
        self.points.setdefault(identity, {}).update(fields)
        return None

    def _query(self, request: Request) -> Answer:
        self._check_org(request)
        return Answer(200, headers={"Content-Type": "text/csv; charset=utf-8"}, content=self.csv.encode())

    def _delete(self, request: Request) -> Answer:
        self._check_place(request)
        return Answer()

    def _list_orgs(self, request: Request) -> Answer:
        self._check_org(request)
        return _json(200, {"orgs": [{"id": "o1", "name": ORG}]})

    def _list_buckets(self, request: Request) -> Answer:
        self._check_org(request)
        name = request.parameters.get("name")
        found = [bucket for bucket in self.buckets if bucket["name"] == name]
        if not found:
            raise Refused(404, "not found", f'bucket "{name}" not found')
        return _json(200, {"buckets": found})

    def _create_bucket(self, request: Request) -> Answer:
        bucket = json.loads(request.content) | {"id": f"b{len(self.buckets) + 1}"}
        self.buckets.append(bucket)
        return _json(201, bucket)

    def _list_tasks(self, request: Request) -> Answer:
        self._check_org(request)
        name = request.parameters.get("name")
        return _json(200, {"tasks": [task for task in self.tasks if name in (None, task["name"])]})

    def _create_task(self, request: Request) -> Answer:
        given = json.loads(request.content)
        name = re.search(r'name: "(.*?)"', given["flux"])
        assert name
        task = given | {"id": f"t{len(self.tasks) + 1}", "name": name[1], "orgID": "o1"}
        self.tasks.append(task)
        return _json(201, task)

    def _update_task(self, request: Request) -> Answer:
        task = next(task for task in self.tasks if request.path.endswith(f"/{task['id']}"))
        task.update(json.loads(request.content))
        return _json(200, task)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or the body of an answer waits 40 ms for the receipt of its head

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, content)
                self._send(server.answer(request))

            do_POST = do_PATCH = do_GET

            def _send(self, answer: Answer) -> None:
                if answer.status:
                    self.send_response_only(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    if answer.status != 204:
                        self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                content = answer.body[: answer.sent]
                if answer.pause:
                    for byte in content:
                        server._ended.wait(answer.pause)
                        self.wfile.write(bytes([byte]))
                else:
                    self.wfile.write(content)
                if answer.silent:
                    server._ended.wait()
                if answer.sent is not None:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def lines_of(body: bytes) -> list[str]:
    """The lines of line protocol; a line break in a quoted field does not end a line. Raises `Refused`."""
    text = body.decode()
    lines = re.findall(r'(?:[^ \n\\]|\\.)+ (?:[^"\n]|"(?:[^"\\]|\\.)*")+', text, re.DOTALL)
    if "\n".join(lines) != text:
        raise Refused(400, "invalid", "unable to parse: an empty line or unbalanced quotes")
    return lines


def _parse(line: str) -> dict[str, Any]:
    try:
        point: dict[str, Any] = parse_line(line)
    except LineFormatError as exc:
        raise Refused(400, "invalid", f"unable to parse '{line}': {exc}") from exc
    if not point["fields"] or point["time"] is None:
        raise Refused(400, "invalid", f"unable to parse '{line}': missing fields or time")
    return point


def _type_of(value: object) -> str:
    return {bool: "boolean", int: "integer", float: "float", str: "string"}[type(value)]


def _json(status: int, value: object) -> Answer:
    return Answer(status, headers={"Content-Type": "application/json"}, content=json.dumps(value).encode())
