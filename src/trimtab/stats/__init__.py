"""Metrics, intervals, paired and sequential tests, each with a stated error rate."""

from trimtab.core.package import lazily

__getattr__ = lazily(__name__, __file__)
