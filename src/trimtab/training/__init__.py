"""Training: build a training set for a declared model, fit the model, and evaluate it."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
