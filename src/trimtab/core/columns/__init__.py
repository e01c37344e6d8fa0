"""Tables of named columns with nulls: how they are stored, exchanged with Arrow, and displayed."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
