"""Drivers write into any storage: the inlet of one that is no `Buffer`, and so keeps no books and no rejects."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable

from edgedepot.storage.base import BaseStorage, StoreRow
from edgedepot.storage.buffer import Arrival, Intake, Pending
from edgedepot.storage.reading import Reading
from edgedepot.storage.receipt import Receipt

log = logging.getLogger("edgedepot.storage")


class PlainInlet:
    """Takes in from drivers for a `BaseStorage`, through its `store_readings`. Thread-safe.

    What is rejected, by the driver or by the storage, is counted in `rejected` by source and logged, the first time and
    whenever the count has doubled; it is kept nowhere.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._stamps: dict[tuple[str, str], int] = {}
        self.rejected: Counter[str] = Counter()

    @property
    def gateway_id(self) -> str | None:
        """Whose readings the storage holds."""
        return self._storage.gateway_id

    def take_in(self, intake: Intake) -> Receipt:
        """Store what a driver took in; blocks as long as the storage does, and raises what it raises.

        With readings of one model the receipt is the storage's; with several, it returns when all are durable. An
        intake that is given again after an error may be stored in part already: in doubt a reading that the gateway
        stamped is there twice, and none is lost.
        """
        for reject in intake.rejects:
            self._note(intake.source, reject.kind, reject.reason)
        by_model: dict[type[Reading], list[Arrival]] = {}
        for arrival in intake.arrivals:
            by_model.setdefault(arrival.model, []).append(arrival)
        receipts = [self._store(intake.source, model, arrivals) for model, arrivals in by_model.items()]
        if len(receipts) == 1:
            return receipts[0]
        for receipt in receipts:
            receipt.wait()
        return Receipt.settled(sum(receipt.accepted for receipt in receipts), None)

    def _store(self, source: str, model: type[Reading], arrivals: Iterable[Arrival]) -> Receipt:
        rows: list[StoreRow] = [self._version(arrival) for arrival in arrivals]
        receipt = self._storage.store_readings(model, rows) or Receipt.settled(len(rows), None)
        receipt.then(lambda: self._note_refused(source, receipt))
        return receipt

    def _note_refused(self, source: str, receipt: Receipt) -> None:
        for refusal in receipt.refused if receipt.error is None else ():
            self._note(source, "reading", refusal.reason)

    def _version(self, arrival: Arrival) -> StoreRow:
        """The reading with its quality. Stamps of the gateway's own increase strictly for each device."""
        moment = arrival.timestamp
        if arrival.stamped:
            series = (arrival.model.__measurement__, arrival.device_id)
            with self._lock:
                moment = self._stamps[series] = max(moment, self._stamps.get(series, moment - 1) + 1)
        return Pending(0, arrival.model, arrival.device_id, moment, arrival.row).version(0)

    def _note(self, source: str, kind: str, reason: str) -> None:
        with self._lock:
            self.rejected[source] += 1
            count = self.rejected[source]
        if count.bit_count() == 1:
            log.warning("%s: rejected a %s: %s (%d so far)", source, kind, reason, count)
