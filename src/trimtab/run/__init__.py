"""Steps: pure functions of content-addressed inputs, finished once."""

from trimtab.run.steps import Retry, Step, finished, step

__all__ = ["Retry", "Step", "finished", "step"]
