"""The work on one connection: messages into the store, and acknowledgements back once they are durable.

A redelivered message that this process has taken in already, and not acknowledged, is not taken in again: it waits for
the receipt that it has. That holds while the broker still knows the session, for only then its packet id means the
same, and only for what comes before any other message, as redeliveries do. In doubt it is taken in again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from edgedepot.drivers.base import Progress, Sink
from edgedepot.drivers.broker import Connection, Message, Stub
from edgedepot.drivers.decoding import Decoder, ignore_message, reject_message
from edgedepot.drivers.topics import Devices
from edgedepot.drivers.window import Window
from edgedepot.storage.buffer import Intake
from edgedepot.storage.errors import DecodeError, StorageBusy
from edgedepot.storage.receipt import Receipt

QUIET = 0.02
"""Seconds without a message after which the store is asked to commit, where the broker waits for us to acknowledge."""
RETRY = 0.1
LAST_RECEIPTS = 5.0
"""Seconds that a stop waits for what was taken in to become durable."""

Taken = dict[int, tuple[Stub, Receipt]]
"""Messages that were taken in and not acknowledged, by packet id."""


class Session:
    """One connection's work, in one thread. Raises `TransportError` when the connection ends, and the store's errors.

    With `hurries` the store is asked to commit as soon as the messages pause.
    """

    def __init__(
        self,
        connection: Connection,
        window: Window,
        sink: Sink,
        decoder: Decoder,
        devices: Devices,
        progress: Progress,
        *,
        hurries: bool,
        taken: Taken,
    ) -> None:
        self._connection = connection
        self._window = window
        self._sink = sink
        self._decoder = decoder
        self._devices = devices
        self._progress = progress
        self._hurries = hurries
        self._taken = taken
        self._held: tuple[Intake, Sequence[Stub]] | None = None
        self._heard = 0.0

    def subscribe(self, topic_filter: str, stopping: threading.Event) -> None:
        """Block until the broker has confirmed it, or until `stopping`; take in what comes before."""
        self._connection.subscribe(topic_filter)
        while not self._connection.subscribed and not stopping.is_set():
            self._step()

    def serve(self, stopping: threading.Event) -> None:
        """Take in and acknowledge until `stopping`."""
        while not stopping.is_set():
            self._step()

    def finish(self) -> None:
        """Take in nothing more; wait, for a bounded time, until what was taken in is durable, and acknowledge it."""
        deadline = time.monotonic() + LAST_RECEIPTS
        self._window.hasten()
        self._acknowledge()
        while len(self._window) and (left := deadline - time.monotonic()) > 0:
            self._connection.exchange(left, reading=False)
            self._acknowledge()

    def _step(self) -> None:
        if self._held is not None:
            # Nothing is read meanwhile, so that the broker holds what there is no room for.
            self._connection.exchange(RETRY, reading=False)
            self._hand_over(*self._held)
        else:
            messages = self._connection.exchange(self._patience())
            if messages:
                self._take(messages)
            elif self._hurries and time.monotonic() - self._heard >= QUIET:
                self._window.hasten()
        self._acknowledge()

    def _patience(self) -> float | None:
        """How long to wait for messages before something else is to be done."""
        if self._hurries and self._window.wants_commit:
            return max(0.0, self._heard + QUIET - time.monotonic())
        return None

    def _take(self, messages: Sequence[Message]) -> None:
        self._heard = time.monotonic()
        self._progress.heard()
        if self._taken:
            messages = self._without_known(messages)
        if not messages:
            return
        intake = self._sink.intake()
        now = self._sink.clock.now()
        for message in messages:
            self._add(intake, message, now)
        # Those of QoS 0 want no acknowledgement.
        self._hand_over(intake, [message.stub for message in messages if message.qos])

    def _without_known(self, messages: Sequence[Message]) -> Sequence[Message]:
        for index, message in enumerate(messages):
            known = self._taken.pop(message.mid, None)
            if known is None or not message.dup or known[0] != message.stub:
                self._taken.clear()
                return messages[index:]
            self._window.add(known[1], [known[0]])
            self._progress.counters["redelivered"] += 1
        return ()

    def _add(self, intake: Intake, message: Message, now: int) -> None:
        if message.retain:  # of an earlier time that nobody knows: no fresh reading
            ignore_message(intake)
            self._progress.counters["retained"] += 1
            return
        topic = message.topic
        try:
            if topic is None:
                raise DecodeError("its topic is not UTF-8")
            device_id = self._devices.find(topic)
        except DecodeError as exc:
            reject_message(intake, str(exc), message.payload)
            return
        if self._decoder.add(intake, message.payload, device_id, now):
            self._devices.admit(topic, device_id)

    def _hand_over(self, intake: Intake, stubs: Sequence[Stub]) -> None:
        try:
            receipt = self._sink.take_in(intake)
        except StorageBusy:
            self._held = intake, stubs
            self._progress.enter("waiting for the store")
            return
        if self._held is not None:
            self._held = None
            self._progress.enter("connected")
        self._window.add(receipt, stubs)

    def _acknowledge(self) -> None:
        self._connection.acknowledge(self._window.take_durable())
        self._connection.flush()
