"""The registry: immutable versions, aliases with their histories, gate records."""

from trimtab.core.package import lazily

__getattr__ = lazily(__name__, __file__)
