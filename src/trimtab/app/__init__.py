"""The package of projects: it connects all other packages to open, train, serve and inspect a project."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
