"""Statistics: metrics, confidence intervals, and tests with a stated error rate."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
