"""Expressions: formulas over the columns of one row, evaluated for a single row or for whole columns."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
