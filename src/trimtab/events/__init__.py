"""Event sources: how rows are checked and stored as events in the log; quarantine for rows that do not fit; history."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
