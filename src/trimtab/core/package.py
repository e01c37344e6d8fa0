"""The version of trimtab, and the public names of its packages, which are loaded at their first use."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

VERSION = "0.1.0"
_LINE = re.compile(r"^from (\S+) import (\w+|\*)", re.MULTILINE)


def lazily(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package: the first finds its public names, the second lists them.

    Only the stub `__init__.pyi` of the package, which type checkers and editors also read, lists the public names. A
    line makes one name public (`from trimtab.core.errors import Misuse as Misuse`), or all names in the `__all__` of a
    module (`from trimtab.features.aggregates import *`).

    Args:
        package: `__name__` of the package.
        file: `__file__` of the package.
    """
    with open(f"{file.removesuffix('py')}pyi", encoding="utf-8") as stub:
        listed = _LINE.findall(stub.read())
    homes = {name: home for home, name in listed if name != "*"}
    whole = [home for home, name in listed if name == "*"]

    def find(name: str) -> Any:
        if name == "__all__":
            return sorted([*homes, *(one for home in whole for one in import_module(home).__all__)])
        if name in homes:
            return getattr(import_module(homes[name]), name)
        # Python also calls this for modules of the package, before it imports them, and for special names
        if whole and not name.startswith("_") and find_spec(f"{package}.{name}") is None:
            for module in map(import_module, whole):
                if name in module.__all__:
                    return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed_names() -> list[str]:
        names: list[str] = find("__all__")
        return names

    return find, listed_names
