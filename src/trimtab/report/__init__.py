"""Make reports with facts, tables and plots, and write them as HTML pages, Markdown or text for a terminal."""

from trimtab.report.curves import curve_chart
from trimtab.report.document import Document, Tone
from trimtab.report.page import html_page
from trimtab.report.picture import Picture
from trimtab.report.plots import Bar, CalibrationPoint, Mark, MarkKind, Series, bar_chart, calibration_plot, line_chart
from trimtab.report.swarm import Swarm, swarm_chart
from trimtab.report.tables import Align, Cell, Link, Table, html_table, text_table
from trimtab.report.text_chart import text_chart
from trimtab.report.writers import markdown_text, terminal_text

__all__ = [
    "Align",
    "Bar",
    "CalibrationPoint",
    "Cell",
    "Document",
    "Link",
    "Mark",
    "MarkKind",
    "Picture",
    "Series",
    "Swarm",
    "Table",
    "Tone",
    "bar_chart",
    "calibration_plot",
    "curve_chart",
    "html_page",
    "html_table",
    "line_chart",
    "markdown_text",
    "swarm_chart",
    "terminal_text",
    "text_chart",
    "text_table",
]
