"""Topics of MQTT: the template a driver is given, the filter it subscribes to, and the device a topic names.

weather/{device_id}/data    subscribes to weather/+/data, takes the device from the second level
"""

from __future__ import annotations

from edgedepot.storage.errors import ConfigError, DecodeError, InvalidValue
from edgedepot.storage.reading import device_id_of

PLACE = "{device_id}"
_LONGEST = 65_535  # bytes, MQTT 5 section 1.5.4
_TOPICS_PER_DEVICE = 10


class TopicTemplate:
    """A topic filter with one level that names the device, or, with a fixed `device_id`, a plain filter.

    Raises `ConfigError` that says what was found and what would be right.
    """

    def __init__(self, template: str, device_id: str | None = None) -> None:
        self._levels = _checked_levels(template)
        self._fixed = None if device_id is None else _checked_device(device_id)
        self._place = _place_of_device(template, self._levels, self._fixed)
        self._template = template
        self.filter = template if self._place is None else template.replace(PLACE, "+")

    def device_of(self, topic: str) -> str:
        """The device that a message with this topic comes from. Raises `DecodeError`."""
        if not self._matches(topic.split("/")):
            raise DecodeError(f"topic {topic[:200]!r} does not match {self._template!r}")
        if self._fixed is not None:
            return self._fixed
        assert self._place is not None
        try:
            return device_id_of(topic.split("/")[self._place])
        except InvalidValue as exc:
            raise DecodeError(f"topic {topic[:200]!r}: {exc}") from exc

    def _matches(self, found: list[str]) -> bool:
        wanted = self._levels
        if wanted[-1] == "#":
            wanted = wanted[:-1]
            found = found[: len(wanted)]  # "#" stands for its parent level, too
        if len(found) != len(wanted):
            return False
        return all(level in ("+", PLACE, name) for level, name in zip(wanted, found, strict=True))


class Devices:
    """The devices of one source, by topic. At most `limit` of them: who sends to topics at random shall not fill the
    store with devices. Used by one thread."""

    def __init__(self, template: TopicTemplate, limit: int) -> None:
        self._template = template
        self._limit = limit
        self._known: set[str] = set()
        self._by_topic: dict[str, str] = {}

    def find(self, topic: str) -> str:
        """The device of a topic. Raises `DecodeError` for a further new one, once there are as many as may be."""
        device_id = self._by_topic.get(topic)
        if device_id is not None:
            return device_id
        device_id = self._template.device_of(topic)
        if device_id not in self._known and len(self._known) >= self._limit:
            raise DecodeError(f"device {device_id[:200]!r} is new, and this source has {self._limit} (max_devices)")
        return device_id

    def admit(self, topic: str, device_id: str) -> None:
        """Note that a reading came from it: only then a device takes one of the places."""
        if topic not in self._by_topic:
            self._known.add(device_id)
            if len(self._by_topic) < _TOPICS_PER_DEVICE * self._limit:  # a fixed device may have any number
                self._by_topic[topic] = device_id


def _checked_levels(template: str) -> list[str]:
    _refuse_if(not template, template, "expected a topic such as 'weather/{device_id}/data'")
    _refuse_if("\0" in template, template, "which holds a NUL, as no topic may")
    _refuse_if(not _is_text(template), template, f"expected at most {_LONGEST} bytes of UTF-8")
    _refuse_if(
        template.startswith("$share/"),
        template,
        "a shared subscription: what its member has not acknowledged when it dies is lost; expected a plain one",
    )
    levels = template.split("/")
    for level in levels:
        whole = level in ("+", "#")
        _refuse_if(not whole and ("+" in level or "#" in level), template, f"where {level!r} mixes text and wildcard")
        braced = level != PLACE and ("{" in level or "}" in level)
        _refuse_if(braced, template, f"where {level!r} is not understood; {PLACE} may stand as a whole level")
    _refuse_if("#" in levels[:-1], template, "where # is not the last level")
    return levels


def _place_of_device(template: str, levels: list[str], fixed: str | None) -> int | None:
    count = levels.count(PLACE)
    if fixed is not None:
        _refuse_if(count > 0, template, f"and device_id {fixed!r} beside it: expected either {PLACE} or device_id")
        return None
    _refuse_if(count > 1, template, f"expected one {PLACE}, not {count}")
    _refuse_if(
        count == 0,
        template,
        f"expected {PLACE} as one of its levels, as in 'weather/{PLACE}/data', or device_id for a fixed device",
    )
    return levels.index(PLACE)


def _checked_device(device_id: str) -> str:
    try:
        return device_id_of(device_id)
    except InvalidValue as exc:
        raise ConfigError(f"device_id: {exc}") from exc


def _is_text(template: str) -> bool:
    try:
        return len(template.encode()) <= _LONGEST
    except UnicodeEncodeError:
        return False


def _refuse_if(condition: bool, template: str, problem: str) -> None:
    if condition:
        raise ConfigError(f"topic: found {template[:200]!r}, {problem}")
