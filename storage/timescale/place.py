"""Where our tables are and what they are called."""

from __future__ import annotations

import re

import msgspec
from psycopg.sql import Identifier

from edgedepot.storage.errors import ConfigError
from edgedepot.storage.reading import Reading

_DEVICES = "_devices"
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,7}", re.ASCII)
LONGEST_NAME = 63


class Place(msgspec.Struct, frozen=True):
    """A schema, None for the user's own, and what the names of our tables begin with."""

    schema: str | None
    prefix: str

    @classmethod
    def of(cls, schema: object, prefix: object) -> Place:
        """Check both settings. Raises `ConfigError`."""
        if schema is not None and not (
            isinstance(schema, str)
            and 0 < len(schema.encode("utf-8", "replace")) <= LONGEST_NAME
            and schema.isprintable()
            and "%" not in schema  # of which statements with values make a place for one
        ):
            raise ConfigError(f"schema: found {schema!r}, expected the name of a schema, at most 63 bytes, without %")
        if not isinstance(prefix, str) or (prefix and not _PREFIX.fullmatch(prefix)):
            raise ConfigError(
                f"table_prefix: found {prefix!r}, expected at most 8 lowercase letters, digits and _, starting with a"
                " letter"
            )
        return cls(schema, prefix)

    def name(self, model: type[Reading]) -> str:
        """The name of a model's table, without its schema."""
        return self.prefix + model.__measurement__

    @property
    def devices_name(self) -> str:
        """The name of the table of devices; no measurement begins with an underscore."""
        return self.prefix + _DEVICES

    def qualified(self, name: str) -> Identifier:
        """A table as statements name it: a measurement may be called like one of the server's own tables."""
        return Identifier(name) if self.schema is None else Identifier(self.schema, name)

    def table(self, model: type[Reading]) -> Identifier:
        """The table of a model."""
        return self.qualified(self.name(model))

    @property
    def devices(self) -> Identifier:
        """The table of what is known of devices."""
        return self.qualified(self.devices_name)
