"""Drivers: they turn what devices say into readings. Transport, framing and decoding are replaceable each on its own.

    base.py       what a driver is, and the sink it writes into
    decoding.py   one message -> a reading, or what is wrong with it (timestamps.py: the devices' own times)
    mqtt.py       messages of an MQTT broker (broker.py: the connection, topics.py, window.py: acknowledgements)
    serial.py     lines from a serial port (port.py: the port itself, lines.py: chunks -> lines)
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
