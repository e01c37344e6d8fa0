from trimtab.core.expressions.by_columns import evaluate_columns as evaluate_columns
from trimtab.core.expressions.by_columns import evaluate_marked as evaluate_marked
from trimtab.core.expressions.by_rows import compile_row as compile_row
from trimtab.core.expressions.nodes import col as col
from trimtab.core.expressions.nodes import when as when

__all__: list[str]
