"""Drivers: they turn what devices say into readings. Transport, framing and decoding are replaceable each on its own.

    base.py       what a driver is, and the sink it writes into
    decoding.py   one message -> a reading, or what is wrong with it; timestamps.py: the devices' own times
    mqtt.py       messages of a broker: address.py where it is, broker.py the connection, session.py the work on it,
                  topics.py whose message it is, window.py what is not acknowledged yet
    serial.py     lines from a serial port: port.py the port itself, lines.py chunks -> lines
    wake.py       ends a wait from another thread
    formats/      bytes -> fields, one small file each

A driver of another package is found through the entry-point group ``edgedepot.drivers``, a format through
``edgedepot.formats``.
"""

from __future__ import annotations

from edgedepot.drivers.base import Driver
from edgedepot.storage.registry import Registry

DRIVERS: Registry[Driver] = Registry(
    Driver,  # type: ignore[type-abstract]  # the abstract base is what subclasses are checked against
    "edgedepot.drivers",
    {"mqtt": "edgedepot.drivers.mqtt.MqttDriver", "serial": "edgedepot.drivers.serial.SerialLineDriver"},
)
