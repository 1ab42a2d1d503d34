"""Readings from a serial port, one per line."""

from __future__ import annotations

import logging
from typing import Any

from edgedepot.drivers.base import Driver, Sink
from edgedepot.drivers.decoding import Decoder, ignore_message
from edgedepot.drivers.formats import Format, make_format
from edgedepot.drivers.lines import LineSplitter
from edgedepot.drivers.port import Port, PortSettings
from edgedepot.drivers.wake import Wake
from edgedepot.storage.buffer import Intake
from edgedepot.storage.errors import ConfigError, InvalidValue, StorageBusy
from edgedepot.storage.reading import Reading, device_id_of

log = logging.getLogger(__name__)
MAX_LINE = 4096
QUIET = 0.05
"""Seconds without a byte after the open, after which the first line is taken to have begun since."""
RETRY = 0.1


class SerialLineDriver(Driver):
    r"""Reads lines that end with ``\n`` or ``\r\n`` from a serial port; each is a reading of one device.

    `port` is a path; one below /dev/serial/by-id or by-path finds the device again after a re-plug. `baudrate`,
    `bytesize`, `parity` ("none", "even", "odd", "mark", "space") and `stopbits` set the line. `format` is "csv" (with
    `columns`), "json", "keyvalue", "value" (with `field`), or a `Format`; other keywords are the format's options.
    `timestamp` names the field with the device's own time, see `drivers.timestamps`; None or "" if it has none.

    A line of more than `max_line` bytes is rejected. The first line after the port was opened may lack its beginning:
    it counts as ignored, unless nothing came for 50 ms before it, or it shows that it is whole: a JSON object does, and
    a CSV line whose first column is the device's time in ISO 8601.

    A serial line knows no acknowledgement: what was sent while the port was not open is lost, and what was read is as
    safe as any write that nobody waits for, that is from the store's next commit on.

    Raises `ConfigError` that names the setting.
    """

    def __init__(
        self,
        port: str,
        model: type[Reading],
        *,
        device_id: str,
        baudrate: int = 9600,
        bytesize: int = 8,
        parity: str = "none",
        stopbits: float = 1,
        format: str | Format = "json",
        timestamp: str | None = "timestamp",
        max_line: int = MAX_LINE,
        **format_options: Any,
    ) -> None:
        super().__init__()
        self._settings = PortSettings(str(port), baudrate, bytesize, parity, stopbits)
        try:
            self._device_id = device_id_of(device_id)
        except InvalidValue as exc:
            raise ConfigError(f"device_id: {exc}") from exc
        if type(max_line) is not int or max_line < 1:
            raise ConfigError(f"max_line: found {max_line!r}, expected a number of bytes")
        self._max_line = max_line
        made = make_format(format, format_options, type(self))
        self._decoder = Decoder(model, made, timestamp=timestamp or None, max_payload=max_line)
        self._wake: Wake | None = None

    def run(self, sink: Sink) -> None:
        with self._progress.running(sink.clock):
            self._wake = wake = Wake()
            try:
                if not self._stopping.is_set():  # after the wake exists: `stop` does one of the two
                    self._progress.enter("opening")
                    with Port(self._settings, wake) as port:
                        self._read(port, sink)
            finally:
                wake.close()

    def _wake_up(self) -> None:
        wake = self._wake
        if wake is not None:
            wake.set()

    def _read(self, port: Port, sink: Sink) -> None:
        log.info("%s: reading lines from %s", sink.source, self._settings.name)
        splitter = LineSplitter(self._max_line)
        chunk = port.read(QUIET)
        may_be_cut = bool(chunk)
        self._progress.enter("reading")
        while not self._stopping.is_set():
            lines = splitter.feed(chunk)
            if lines:
                self._take(lines, sink, may_be_cut)
                may_be_cut = False
            chunk = port.read()

    def _take(self, lines: list[bytes], sink: Sink, first_may_be_cut: bool) -> None:
        self._progress.heard()
        intake = sink.intake()
        now = sink.clock.now()
        if first_may_be_cut and not self._decoder.is_whole(lines[0], now if sink.clock.trusted else None):
            ignore_message(intake)
            del lines[0]
        for line in lines:
            if line and not line.isspace():
                self._decoder.add(intake, line, self._device_id, now)
            else:
                ignore_message(intake)
        self._hand_over(intake, sink)

    def _hand_over(self, intake: Intake, sink: Sink) -> None:
        """The port waits meanwhile, with the little that the kernel holds for it."""
        while True:
            try:
                sink.take_in(intake)
                break
            except StorageBusy as exc:
                self._progress.enter("waiting for the store")
                if self._stopping.wait(RETRY):
                    log.error("%s: stops without storing %d lines: %s", sink.source, intake.messages, exc)
                    break
        self._progress.enter("reading")
