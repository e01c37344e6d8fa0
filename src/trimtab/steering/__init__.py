"""From signals to decisions: trigger, wait, train, gate, promote or refuse; the ledger."""

from trimtab.core.package import lazily

__getattr__ = lazily(__name__, __file__)
