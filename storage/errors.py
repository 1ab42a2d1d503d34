"""Every error that edgedepot raises, as one tree.

    EdgeDepotError
    ├── ConfigError                     a setting is wrong: names the thing, what was found, what would be right
    ├── InvalidValue (ValueError)       an argument or a reading's data is not what the contract allows
    ├── DriverError
    │   ├── TransportError              the port or the broker is not there; the supervisor tries again
    │   └── DecodeError                 these bytes are no reading; the driver rejects them and goes on
    └── StorageError
        ├── NotSupported                this backend cannot do that
        ├── StorageClosed               the storage was closed
        ├── StorageBusy                 the queue stayed full for the whole timeout
        ├── LimitReached                what an upstream may cost lets nothing more go for now
        ├── StorageLocked               another process writes this store
        ├── StoreUnusable               the file is not a store of ours, or a newer program wrote it
        ├── ReceiptTimeout (TimeoutError)   not as safe as asked for within the timeout
        └── UpstreamError               what a remote server said, sorted by what helps
            ├── Unreachable             no answer: wait and send the same again
            ├── Overloaded              too much at once: wait, then send less
            ├── DataRefused             some row of these will never be accepted: find and set it aside
            └── Misconfigured           nothing will be accepted until a person mends the set-up

Libraries' own errors are mapped onto this tree in one place each and chained with ``raise ... from``.
"""

from __future__ import annotations


class EdgeDepotError(Exception):
    """Base of all errors of this package."""


class ConfigError(EdgeDepotError):
    """A setting is wrong. The text names the key, what was found and what would be right."""


class InvalidValue(EdgeDepotError, ValueError):
    """An argument or a reading's data is not what the contract allows."""


class DriverError(EdgeDepotError):
    """A driver cannot go on by itself."""


class TransportError(DriverError):
    """The port or the broker is not there, or went away."""


class DecodeError(DriverError):
    """These bytes are no reading; the text is the reason that is kept beside them."""


class StorageError(EdgeDepotError):
    """A storage cannot do what was asked."""


class NotSupported(StorageError):
    """This backend cannot do that."""


class StorageClosed(StorageError):
    """The storage was closed."""


class StorageBusy(StorageError):
    """The queue in front of the store stayed full for the whole timeout."""


class LimitReached(StorageError):
    """What an upstream may cost (bytes a day, hours) lets nothing more go for now."""


class StorageLocked(StorageError):
    """Another process writes this store."""


class StoreUnusable(StorageError):
    """The file is not a store of ours, or a newer program wrote it."""


class ReceiptTimeout(StorageError, TimeoutError):
    """The readings were not as safe as asked for within the timeout. They stay queued."""


class UpstreamError(StorageError):
    """What a remote server answered.

    ``retry_after`` is in seconds where the server named a time. ``code`` is the server's own: SQLSTATE, or the HTTP
    status as text; None where there is none, as when nothing answered.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.code = code


class Unreachable(UpstreamError):
    """No answer, or a broken connection: whether the rows were applied is not known."""


class Overloaded(UpstreamError):
    """The server asks for less, or for later."""


class DataRefused(UpstreamError):
    """At least one of the rows sent will never be accepted; of the others any part may have been kept.

    ``at_fault`` tells of how many rows it is certain that the fault is their own, as with such that are too old: no
    other set-up would have them. 0 where that cannot be told.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, code: str | None = None, at_fault: int = 0
    ) -> None:
        super().__init__(message, retry_after=retry_after, code=code)
        self.at_fault = at_fault


class Misconfigured(UpstreamError):
    """Address, rights or schema are wrong: nothing will be accepted until a person mends that."""
