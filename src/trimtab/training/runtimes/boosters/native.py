"""Load the shared libraries of packages, to call their C interface without importing the packages."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.training.runtimes.table import missing_library

if TYPE_CHECKING:
    from numpy.typing import NDArray


@cache
def native_library(package: str, *places: str) -> ctypes.CDLL:
    """Load the shared library of an installed package. The package itself is not imported.

    Args:
        places: Possible paths of the library in the package's folder, for different operating systems.

    Raises:
        Misuse: The package is not installed.
        Unavailable: The package has no such library, or the system lacks something that the library needs.
    """
    try:
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        folders = [Path(folder) for folder in found.submodule_search_locations]
        for path in (folder / place for folder in folders for place in places):
            if path.is_file():
                return ctypes.CDLL(str(path))
        raise OSError(f"{package}: none of {', '.join(places)} is in {folders[0]}")
    except (ImportError, OSError) as error:
        raise missing_library(package, error) from error


def matrix_address(matrix: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return a matrix in the form that C reads (rows of float64 one after another), and its memory address.

    Keep the returned matrix as long as C reads it.
    """
    import numpy as np

    plain = np.ascontiguousarray(matrix, np.float64)
    return plain, plain.ctypes.data
