"""Tests that every backend must pass, for authors of backends, and backends in memory for fast tests."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
