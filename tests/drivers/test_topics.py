"""Topic templates: what they subscribe to, whom a topic names, and what is wrong with a bad one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from edgedepot.drivers.topics import Devices, TopicTemplate
from edgedepot.storage.errors import ConfigError, DecodeError


@pytest.mark.parametrize(
    ("template", "topic_filter", "topic", "device"),
    [
        ("weather/{device_id}/data", "weather/+/data", "weather/mast/data", "mast"),
        ("{device_id}", "+", "mast", "mast"),
        ("application/+/device/{device_id}/event/up", "application/+/device/+/event/up",
         "application/7/device/mast/event/up", "mast"),
        ("zigbee/{device_id}/#", "zigbee/+/#", "zigbee/mast/a/b", "mast"),
        ("zigbee/{device_id}/#", "zigbee/+/#", "zigbee/mast", "mast"),
        ("wetter/{device_id}", "wetter/+", "wetter/Mast Nr. 1 – Süd", "Mast Nr. 1 – Süd"),
    ],
)  # fmt: skip
def test_the_device_is_a_level_of_the_topic(template: str, topic_filter: str, topic: str, device: str) -> None:
    found = TopicTemplate(template)
    assert found.filter == topic_filter
    assert found.device_of(topic) == device


def test_a_fixed_device_for_any_topics() -> None:
    found = TopicTemplate("house/+/temperature/#", "house")
    assert found.filter == "house/+/temperature/#"
    assert found.device_of("house/kitchen/temperature/now") == "house"
    with pytest.raises(DecodeError, match="does not match"):
        found.device_of("house/kitchen/humidity")


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("weather/mast", "does not match"),
        ("weather/mast/data/more", "does not match"),
        ("wether/mast/data", "does not match"),
        ("weather//data", "device id '' is empty"),
        (f"weather/{'x' * 2000}/data", "is 2000 bytes long"),
    ],
)
def test_a_topic_that_names_no_device(topic: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason) as found:
        TopicTemplate("weather/{device_id}/data").device_of(topic)
    assert len(str(found.value)) < 500


@given(
    st.lists(st.sampled_from(["a", "b", "", "+", "#"]), min_size=1, max_size=4),
    st.lists(st.sampled_from("ab"), min_size=1, max_size=4),
)
def test_matches_as_mqtt_does(levels: list[str], names: list[str]) -> None:
    topic_filter, topic = "/".join(levels), "/".join(names)
    if "#" in levels[:-1] or not topic_filter:
        return
    try:
        TopicTemplate(topic_filter, "house").device_of(topic)
    except DecodeError:
        assert not topic_matches_sub(topic_filter, topic)
    else:
        assert topic_matches_sub(topic_filter, topic)


@pytest.mark.parametrize(
    ("template", "device_id", "problem"),
    [
        ("", None, "expected a topic such as"),
        ("weather/data", None, "expected {device_id} as one of its levels.*or device_id"),
        ("weather/+/data", None, "expected {device_id} as one of its levels"),
        ("{device_id}/{device_id}", None, "expected one {device_id}, not 2"),
        ("weather/station-{device_id}/data", None, "'station-{device_id}' is not understood"),
        ("weather/{device}/data", None, "'{device}' is not understood; {device_id} may stand"),
        ("weather/{device_id}/data", "mast", "either {device_id} or device_id"),
        ("weather/#/{device_id}", None, "# is not the last level"),
        ("weather/{device_id}/x#", None, "'x#' mixes"),
        ("weather/{device_id}/+x", None, r"'\+x' mixes"),
        ("$share/group/weather/{device_id}", None, "a shared subscription"),
        ("weather/\0/{device_id}", None, "NUL"),
        ("x" * 65_536 + "/{device_id}", None, "at most 65535 bytes"),
        ("weather/\ud800/{device_id}", None, "at most 65535 bytes of UTF-8"),
        ("weather", "", "device_id: .*is empty"),
    ],
)
def test_a_bad_template_is_named(template: str, device_id: str | None, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as found:
        TopicTemplate(template, device_id)
    assert len(str(found.value)) < 500


class TestDevices:
    def test_further_new_ones_are_refused_and_known_ones_not(self) -> None:
        devices = Devices(TopicTemplate("{device_id}/x"), 2)
        for name in ("a", "b"):
            devices.admit(f"{name}/x", devices.find(f"{name}/x"))
        assert [devices.find("a/x"), devices.find("b/x")] == ["a", "b"]
        with pytest.raises(DecodeError, match=r"device 'c' is new, and this source has 2 \(max_devices\)"):
            devices.find("c/x")

    def test_who_never_sent_a_reading_takes_no_place(self) -> None:
        devices = Devices(TopicTemplate("{device_id}/x"), 1)
        assert [devices.find(f"{number}/x") for number in range(100)] == [str(number) for number in range(100)]
        devices.admit("a/x", "a")
        with pytest.raises(DecodeError, match="is new"):
            devices.find("1/x")

    def test_a_fixed_device_may_have_any_number_of_topics(self) -> None:
        devices = Devices(TopicTemplate("#", "house"), 1)
        for number in range(100):
            topic = f"house/{number}"
            assert devices.find(topic) == "house"
            devices.admit(topic, "house")
