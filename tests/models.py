"""Reading models that tests share."""

from edgedepot import Field, Reading
from edgedepot.storage.reading import define_model


class Weather(Reading):
    temperature: float = Field(unit="°C", range=(-40, 80))
    humidity: float | None = None
    raining: bool | None = None
    note: str | None = None
    count: int | None = Field(range=(0, None))


class Mixed(Reading):
    """One field of each kind, all of which may be absent: rows of it can be merged."""

    a: float | None = Field(range=(None, 100))
    b: float | None = None
    text: str | None = None
    number: int | None = None
    flag: bool | None = None


class Meter(Reading):
    """No field is a float, and devices may have the names of others that tell the weather."""

    on: bool
    mode: str | None = None
    total: int | None = Field(range=(0, None))
    error: bool | None = None


Wordy = define_model("Wordy", {f"text{number}": (str, True, None) for number in range(100)})
"""Rows of it may take 100 KiB."""
