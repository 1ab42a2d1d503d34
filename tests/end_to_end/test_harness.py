"""The harness itself: devices, plans and the judge do what they claim, so that a clean verdict means something."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import serial
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.end_to_end import faults, judge
from tests.end_to_end.devices import Line, Message, MqttFleet, Sample, SerialDevice, as_csv, as_json
from tests.end_to_end.faults import Fault, Saboteur
from tests.end_to_end.judge import BrokerKill, Held, Sent
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import wait_until
from tests.servers.socat import PtyPair

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def sample(counter: int, device: str = "plot-01") -> Sample:
    return Sample(device, NOON + timedelta(microseconds=counter), counter, 21.5, 40.0)


def row(number: int, device: str = "plot-01", **other: object) -> Held:
    return Held("roof", sample(number, device)._replace(**other), None, (1, number))  # type: ignore[arg-type]


def message(counter: int, acknowledged: float | None = 100.0) -> Message:
    return Message(as_json(sample(counter)), sample(counter), acknowledged)


def line(counter: int, began: float, done: float) -> Line:
    return Line(as_csv(sample(counter, "mast")), sample(counter, "mast"), began, done)


@pytest.mark.parametrize("seed", range(50))
def test_plans_have_every_fault_in_order(seed: int) -> None:
    plan = faults.make_plan(seed)
    assert plan == faults.make_plan(seed) == sorted(plan)
    assert 0 < plan[0].moment < plan[-1].moment < 0.97
    for kind in faults.ALL:
        own = [fault.name for fault in plan if fault.name in (kind.begin, kind.end)]
        times = kind.times + (kind is faults.GATEWAY)
        assert own == [kind.begin, kind.end] * times


def test_faults_happen_when_their_moment_has_come() -> None:
    reached, seen = threading.Semaphore(0), [0.0]
    plan = [Fault(0.2, "a"), Fault(0.2, "b"), Fault(0.9, "a")]
    happened: list[tuple[str, float]] = []

    def note(name: str) -> None:
        happened.append((name, seen[0]))
        reached.release()

    saboteur = Saboteur(plan, lambda: seen[0], {"a": lambda: note("a"), "b": lambda: note("b")})
    saboteur.start()
    seen[0] = 0.5
    assert reached.acquire(timeout=10)
    assert reached.acquire(timeout=10)
    assert len(happened) == 2
    seen[0] = 0.95
    assert [name for _, name in saboteur.join(10)] == ["a", "b", "a"]
    assert happened == [("a", 0.5), ("b", 0.5), ("a", 0.95)]


def test_a_failing_action_fails_the_run() -> None:
    def fail() -> None:
        raise OSError("no such switch")

    saboteur = Saboteur([Fault(0.1, "a")], lambda: 1.0, {"a": fail})
    saboteur.start()
    with pytest.raises(OSError, match="no such switch"):
        saboteur.join(10)


def test_all_there_is_clean() -> None:
    sent = Sent([message(n) for n in range(9)], [line(1, 0, 1)])
    verdict = judge.judge(sent, [*(row(n) for n in range(9)), row(1, "mast")._replace(version=(1, 9))])
    assert verdict.clean
    assert (verdict.required, verdict.held, verdict.excused) == (10, 10, {})


@pytest.mark.parametrize(
    ("held", "lost", "twice", "wrong"),
    [
        ([row(1), row(2)], 1, 0, 0),
        ([row(1), row(2), row(3), row(3)], 0, 1, 0),
        ([row(1), row(2), row(3), row(4)], 0, 0, 1),
        ([row(1), row(2), row(3, temperature=21.49)], 0, 0, 1),
        ([row(1), row(2), row(3, humidity=None)], 0, 0, 1),
        ([row(1), row(2), row(3, counter=2)], 0, 1, 1),
        ([row(1), row(2), row(3, timestamp=NOON)], 1, 0, 1),
        ([row(1), row(2), row(3)._replace(quality=1)], 0, 0, 1),
        ([row(1), row(2), row(3)._replace(gateway="cellar")], 0, 0, 1),
        ([row(1), row(2), row(3)._replace(version=(1, 2))], 0, 1, 0),
    ],
)
def test_the_judge_sees_what_is_lost_twice_or_wrong(held: Sequence[Held], lost: int, twice: int, wrong: int) -> None:
    verdict = judge.judge(Sent([message(n) for n in (1, 2, 3)], []), held)
    assert (len(verdict.lost), len(verdict.twice), len(verdict.wrong)) == (lost, twice, wrong), str(verdict)
    assert not verdict.clean


@pytest.mark.parametrize(
    ("began", "done", "excused"),
    [(8.8, 8.9, False), (8.9, 9.0, True), (10.5, 10.6, True), (11.9, 12.2, True), (12.1, 12.2, False)],
)
def test_only_lines_around_an_outage_are_excused(began: float, done: float, excused: bool) -> None:
    verdict = judge.judge(Sent([], [line(1, began, done)], port_outages=[(9.0, 12.0)]), [])
    assert verdict.clean is excused
    assert verdict.excused == ({judge.GATEWAY_DEAD: 1} if excused else {})


@pytest.mark.parametrize(
    ("acknowledged", "saved", "excuse"),
    [
        (None, False, judge.NEVER_ACCEPTED),
        (100.5, False, judge.BROKER_DROP),
        (100.5, True, None),  # the broker still has it
        (90.0, False, None),  # the broker had saved it and would still have it, if the gateway had not acknowledged it
        (103.0, False, None),
    ],
)
def test_only_what_the_broker_forgot_is_blamed_on_it(
    acknowledged: float | None, saved: bool, excuse: str | None
) -> None:
    sent = message(1, acknowledged)
    kill = BrokerKill(b"..." + sent.payload + b"..." if saved else b"...", saved=100.0, restarted=102.0)
    verdict = judge.judge(Sent([sent], [], broker_kills=[kill]), [])
    assert verdict.clean is (excuse is not None)
    assert verdict.excused == ({excuse: 1} if excuse else {})


def test_rejected_ones_are_judged_too() -> None:
    sent = Sent(
        [Message(b"bad 1", None, 1.0), Message(b"bad 2", None, None)],
        [Line(b"torn a", None, 1, 1), Line(b"lost in an outage", None, 5, 5), Line(b"first", None, 7, 7)],
        port_outages=[(4, 6)],
    )
    assert judge.judge_rejected(sent, {"garden": [b"bad 1", b"bad 1"], "mast": [b"torn a", b"rn"]}, lives=1) == []
    assert len(judge.judge_rejected(sent, {"garden": [b"bad 3"], "mast": [b"torn a", b"torn a"]}, lives=1)) == 3
    assert len(judge.judge_rejected(sent, {}, lives=1)) == 2
    assert len(judge.judge_rejected(sent, {"garden": [b"bad 1"], "mast": [b"torn a", b"1", b"2"]}, lives=1)) == 1


def test_books_are_compared_with_what_is_there() -> None:
    quiet = dict.fromkeys(("merged", "replaced", "rejected_readings", "rejected_fields", "duplicates", "ignored"), 0)
    books = {
        "sources": {
            "garden": {**quiet, "messages": 6, "new": 2, "rejected": 1, "duplicates": 3},
            "mast": {**quiet, "messages": 2, "new": 1, "rejected": 0, "ignored": 1},
        },
        "upstreams": {"central": {"versions": 3, "delivered": 3, "pending": 0, "quarantined": 0}},
        "problems": [],
    }
    held = [row(1), row(2), row(1, "mast")]
    assert judge.judge_books(books, held, {"garden": [b"bad"]}, lives=1) == []
    assert judge.judge_books(books, held[:-1], {"garden": [b"bad"]}, lives=1) == [
        "mast new: the books say 1, it is 0",
        "versions: the books say 3, it is 2",
        "delivered: the books say 3, it is 2",
    ]
    assert judge.judge_books(books, held, {}, lives=0) == [
        "garden rejected: the books say 1, it is 0",
        "mast ignored: the books say 1, it is 0",
    ]


def test_the_fleet_publishes_everything_across_a_broker_kill(mosquitto: Mosquitto) -> None:
    received: set[bytes] = set()
    ready = threading.Event()

    def note(client: Client, userdata: object, message: MQTTMessage) -> None:
        received.add(bytes(message.payload))

    listener = Client(CallbackAPIVersion.VERSION2, client_id="listener", protocol=MQTTv5)
    listener.on_subscribe = lambda *_: ready.set()
    listener.on_message = note
    listener.reconnect_delay_set(1, 1)
    listener.connect("127.0.0.1", mosquitto.port, clean_start=True)
    listener.subscribe("garden/+/data", qos=1)
    listener.loop_start()
    assert ready.wait(10)
    fleet = MqttFleet(mosquitto.port, devices=4, messages=400, duration=1.0, broken=8)
    try:
        fleet.start()
        wait_until(lambda: fleet.done > 200, "half is sent")
        mosquitto.kill()
        assert fleet.done < fleet.total
        mosquitto.start()
        wait_until(lambda: fleet.all_acknowledged, "all is acknowledged", 30)
    finally:
        fleet.close()
        listener.disconnect()
        listener.loop_stop()
    assert len(fleet.messages) == 408
    assert len({message.payload for message in fleet.messages}) == 408
    assert sum(message.sample is None for message in fleet.messages) == 8
    assert {m.sample.counter for m in fleet.messages if m.sample and m.sample.device == "plot-00"} == set(range(1, 101))
    assert all(message.acknowledged is not None for message in fleet.messages)
    assert received <= {message.payload for message in fleet.messages}


def test_a_message_that_nobody_subscribed_to_is_noticed(mosquitto: Mosquitto) -> None:
    fleet = MqttFleet(mosquitto.port, devices=1, messages=1, duration=0.01)
    try:
        fleet.start()
        wait_until(lambda: fleet.all_acknowledged, "it is acknowledged")
        assert [message.heard for message in fleet.messages] == [False]
    finally:
        fleet.close()


def test_the_serial_device_writes_whole_lines_at_a_pace(pty_pair: PtyPair) -> None:
    with serial.Serial(str(pty_pair.device), 115200, timeout=10) as port:
        device = SerialDevice(pty_pair.peer, lines=100, duration=0.5, broken=5)
        try:
            device.start()
            text = b"".join(port.readline() for _ in range(105))
            wait_until(lambda: device.finished, "all is sent")
        finally:
            device.close()
    assert text.split(b"\r\n")[:-1] == [line.text for line in device.lines]
    assert sum(line.sample is None for line in device.lines) == 5
    assert all(before.done <= after.began <= after.done for before, after in zip(device.lines, device.lines[1:]))  # noqa: B905
    assert device.lines[-1].done - device.lines[0].began > 0.4
