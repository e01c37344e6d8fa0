from trimtab.testing.contract_blob import BlobContract as BlobContract
from trimtab.testing.contract_catalog import CatalogContract as CatalogContract
from trimtab.testing.contract_key_value import KeyValueContract as KeyValueContract
from trimtab.testing.contract_log import LogContract as LogContract
from trimtab.testing.contract_runtime import RuntimeContract as RuntimeContract
from trimtab.testing.contract_table import TableContract as TableContract
from trimtab.testing.memory import MemoryKeyValue as MemoryKeyValue
from trimtab.testing.memory import MemoryLog as MemoryLog

__all__: list[str]
