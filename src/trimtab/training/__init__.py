"""Training: from a model's definition and a cut to a training set, a fitted model and its evaluation."""

from trimtab.core.package import lazily

__getattr__ = lazily(__name__, __file__)
