"""Steering: decide when to retrain, make and judge candidates, put them in service, and record every decision."""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
