"""The registry: immutable versions of fitted models, the aliases that point to them, and records of judgements."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
