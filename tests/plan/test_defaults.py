"""A plan goes by what the store and the workers do where nothing is said of that."""

from inspect import signature

from edgedepot import Gateway, SQLiteStorage, SyncWorker
from edgedepot.plan import BATCH, FLUSH, FOLD, PART
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.sqlite import fold


def test_its_defaults_are_theirs() -> None:
    store = signature(SQLiteStorage).parameters
    assert [seconds_of(store[name].default, name) for name in ("flush_interval", "fold_interval")] == [FLUSH, FOLD]
    assert [signature(one).parameters["batch_size"].default for one in (SyncWorker, Gateway.forward_to)] == [BATCH] * 2
    assert fold.CHUNK == PART
