"""What the server answers, sorted by what helps."""

import psycopg
import pytest

from edgedepot import TimescaleDBStorage
from edgedepot.storage.errors import DataRefused, Misconfigured, Overloaded, Unreachable, UpstreamError
from edgedepot.storage.timescale.errors import upstream_error
from tests.models import Weather
from tests.storage.timescale.conftest import Look

BY_STATE = {
    "08006": Unreachable,
    "22003": DataRefused,
    "22021": DataRefused,
    "23502": DataRefused,
    "23514": DataRefused,
    "25006": Unreachable,
    "28P01": Misconfigured,
    "3D000": Misconfigured,
    "3F000": Misconfigured,
    "40001": Overloaded,
    "40P01": Overloaded,
    "42501": Misconfigured,
    "42703": Misconfigured,
    "53100": Unreachable,
    "53200": Overloaded,
    "53300": Overloaded,
    "54000": DataRefused,
    "54011": Misconfigured,
    "55P03": Overloaded,
    "57014": Overloaded,
    "57P01": Unreachable,
    "57P03": Unreachable,
    "58030": Unreachable,
    "P0001": Unreachable,
    "XX000": Unreachable,
    "ZZ999": Unreachable,
}


def test_an_error_of_the_server_becomes_the_one_that_says_what_helps(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_reading(Weather, "mast", None, {"temperature": 1.0})
    look(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no % today', 'cake' USING ERRCODE = TG_ARGV[0]; END $$"
    )
    found: dict[str, type[UpstreamError]] = {}
    for state in BY_STATE:
        look(f"CREATE TRIGGER refusing BEFORE INSERT ON weather FOR EACH ROW EXECUTE FUNCTION refuse('{state}')")
        with pytest.raises(UpstreamError) as caught:
            storage.store_reading(Weather, "mast", None, {"temperature": 2.0})
        look("DROP TRIGGER refusing ON weather")
        found[state] = type(caught.value)
        assert str(caught.value).endswith(f": no cake today (SQLSTATE {state})")
        assert caught.value.code == state
        assert isinstance(caught.value.__cause__, psycopg.Error)
        storage.store_reading(Weather, "mast", None, {"temperature": 3.0})
    assert found == BY_STATE
    assert storage.aggregate(Weather, "temperature", "min") == {"result": 1.0}
    assert storage.aggregate(Weather, "temperature", "max") == {"result": 3.0}
    assert storage.aggregate(Weather, "temperature", "count") == {"result": 1 + len(BY_STATE)}


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ('connection failed: FATAL:  password authentication failed for user "me"', Misconfigured),
        ('connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "me"', Misconfigured),
        ('connection failed: FATAL:  database "iot" does not exist', Misconfigured),
        ('connection failed: FATAL:  permission denied for database "iot"', Misconfigured),
        ("connection failed: server does not support SSL, but SSL was required", Misconfigured),
        ('connection is bad: invalid sslmode value: "always"', Misconfigured),
        ("bad value for connect_timeout: 'soon'", Misconfigured),
        ("connection failed: received invalid response to SSL negotiation: H", Misconfigured),
        ("connection failed: expected authentication request from server, but received H", Misconfigured),
        ("connection failed: FATAL:  sorry, too many clients already", Overloaded),
        ("connection failed: FATAL:  the database system is starting up", Unreachable),
        ("connection failed: SSL error: certificate verify failed", Unreachable),
        ("connection failed: FATAL:  Passwort-Authentifizierung fehlgeschlagen", Unreachable),
        ("[Errno -3] Temporary failure in name resolution", Unreachable),
    ],
)
def test_words_of_libpq_without_an_sqlstate_are_understood(words: str, kind: type[UpstreamError]) -> None:
    error = upstream_error(psycopg.OperationalError(words), "postgresql://host/db")
    assert type(error) is kind
    assert words.replace("  ", " ") in str(error)
    assert "SQLSTATE" not in str(error)
    assert error.code is None


def test_a_long_message_is_cut_and_stands_in_one_line() -> None:
    error = upstream_error(psycopg.OperationalError("a\n" * 10_000), "postgresql://host/db")
    assert "\n" not in str(error)
    assert len(str(error)) < 1000
