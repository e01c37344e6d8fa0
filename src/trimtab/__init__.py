"""trimtab: the whole production machine-learning loop in one Python process."""

from trimtab.core.package import VERSION, lazily

__version__ = VERSION
__getattr__, __dir__ = lazily(__name__, __file__)
