"""From outcomes to daily quality summaries and signals with a stated false-alarm rate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.monitoring.quality.quality import MetricValue, QualityMonitor, Watch

__all__ = ["MetricValue", "QualityMonitor", "Watch"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # NumPy and SciPy load with the first name asked for, not with `import trimtab`
        return getattr(import_module("trimtab.monitoring.quality.quality"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
