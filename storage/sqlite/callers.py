"""Who is told when something became durable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edgedepot.storage.receipt import DURABLE, Receipt

log = logging.getLogger(__name__)


class Callers:
    """Callbacks of receipts, and watchers. `condition` is the writer's, which guards the receipts too."""

    def __init__(self, condition: threading.Condition) -> None:
        self._condition = condition
        self._callbacks: list[tuple[Receipt, Callable[[], None]]] = []
        self._watchers: list[Callable[[], None]] = []

    def call_when_durable(self, receipt: Receipt, callback: Callable[[], None]) -> None:
        """Call back once that receipt is durable or has an error: at once where it is."""
        with self._condition:
            if receipt.rank < DURABLE and receipt.error is None:
                self._callbacks.append((receipt, callback))
                return
        callback()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after rows became durable; returns what ends that."""
        with self._condition:
            self._watchers.append(callback)

        def unwatch() -> None:
            with self._condition:
                if callback in self._watchers:
                    self._watchers.remove(callback)

        return unwatch

    def tell(self, all_durable: bool) -> None:
        """Wake who waits, and call back for what became durable; the watchers where `all_durable`."""
        with self._condition:
            ripe = [call for receipt, call in self._callbacks if receipt.rank == DURABLE or receipt.error]
            if ripe:
                self._callbacks = [entry for entry in self._callbacks if entry[0].rank < DURABLE and not entry[0].error]
            watchers = self._watchers[:] if all_durable else []
            self._condition.notify_all()
        for call in ripe + watchers:
            try:
                call()
            except Exception:  # the caller's own: it must not end the thread that writes
                log.exception("a callback on what became durable failed")
