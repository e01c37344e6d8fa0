"""Test suites that every backend must pass, for authors of backends, and backends in memory for fast tests."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.testing.contract_blob import BlobContract
    from trimtab.testing.contract_catalog import CatalogContract
    from trimtab.testing.contract_key_value import KeyValueContract
    from trimtab.testing.contract_log import LogContract
    from trimtab.testing.contract_runtime import RuntimeContract
    from trimtab.testing.contract_table import TableContract
    from trimtab.testing.memory import MemoryKeyValue, MemoryLog

__all__ = [
    "BlobContract",
    "CatalogContract",
    "KeyValueContract",
    "LogContract",
    "MemoryKeyValue",
    "MemoryLog",
    "RuntimeContract",
    "TableContract",
]

_MODULES = {
    "BlobContract": "contract_blob",
    "CatalogContract": "contract_catalog",
    "KeyValueContract": "contract_key_value",
    "LogContract": "contract_log",
    "MemoryKeyValue": "memory",
    "MemoryLog": "memory",
    "RuntimeContract": "contract_runtime",
    "TableContract": "contract_table",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
