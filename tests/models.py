"""Reading models that tests share."""

from edgedepot import Field, Reading


class Weather(Reading):
    temperature: float = Field(unit="°C", range=(-40, 80))
    humidity: float | None = None
    raining: bool | None = None
    note: str | None = None
    count: int | None = Field(range=(0, None))
