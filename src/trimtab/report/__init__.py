"""Self-contained HTML with SVG plots of its own, and terminal tables: from figures to pages."""

from trimtab.report.curves import curve_chart
from trimtab.report.page import Page, Tone
from trimtab.report.plots import Bar, CalibrationPoint, Mark, MarkKind, Series, bar_chart, calibration_plot, line_chart
from trimtab.report.swarm import Swarm, swarm_chart
from trimtab.report.tables import Align, Cell, Table, html_table, text_table

__all__ = [
    "Align",
    "Bar",
    "CalibrationPoint",
    "Cell",
    "Mark",
    "MarkKind",
    "Page",
    "Series",
    "Swarm",
    "Table",
    "Tone",
    "bar_chart",
    "calibration_plot",
    "curve_chart",
    "html_table",
    "line_chart",
    "swarm_chart",
    "text_table",
]
