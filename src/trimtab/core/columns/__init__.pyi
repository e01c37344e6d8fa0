from trimtab.core.columns.column import Column as Column
from trimtab.core.columns.column import WrongColumn as WrongColumn
from trimtab.core.columns.data import Columns as Columns

__all__: list[str]
