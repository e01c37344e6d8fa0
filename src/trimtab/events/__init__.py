"""Sources: how raw records become validated events in the log, without duplicates; quarantine; history in columns."""

from trimtab.core.package import lazily

__getattr__ = lazily(__name__, __file__)
