"""A picture of plots, for notebooks and files, as SVG."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from trimtab.core.errors import Misuse, Unavailable
from trimtab.report.drawing import WIDTH
from trimtab.report.markup import Markup, tag

_HEIGHT = re.compile(r'viewBox="0 0 \d+ ([\d.]+)"')
_GAP = 18


class Picture(msgspec.Struct, frozen=True):
    """Plots one below the other. Notebooks show them; `save` writes them to a file.

    >>> from trimtab.report import Bar, bar_chart
    >>> Picture((bar_chart([Bar(label="a", value=1.0)], title="Rows"),))
    <Picture of 1 plot, 760 x 84. Show it in a notebook, or save it: picture.save("FILE.svg")>
    """

    plots: tuple[Markup, ...]

    def __post_init__(self) -> None:
        if not self.plots:
            raise Misuse("plot: there is nothing to draw yet. It needs closed days, or an evaluation with rows.")

    @property
    def svg(self) -> str:
        """The picture as one SVG document, which loads nothing and has no script."""
        parts, top = [], 0.0
        for plot, height in zip(self.plots, self._heights(), strict=True):
            placed = plot.replace("<svg ", f'<svg x="0" y="{top:g}" width="{WIDTH}" height="{height:g}" ', 1)
            parts.append(Markup(placed))
            top += height + _GAP
        whole = top - _GAP
        return tag(
            "svg",
            *parts,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {whole:g}",
            width=WIDTH,
            height=whole,
        )

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file whose name ends in .svg, and return its path.

        Raises:
            Misuse: The name has another ending.
            Unavailable: The file cannot be written.
        """
        file = Path(path)
        if file.suffix != ".svg":
            raise Misuse(f"picture: {file} is not the name of an SVG file. Use a name that ends in .svg.")
        try:
            file.write_text(self.svg, "utf-8")
        except OSError as error:
            raise Unavailable(f"{file}: {error.strerror}. Check the folder, free space and access.") from error
        return file

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        count, height = len(self.plots), sum(self._heights()) + _GAP * (len(self.plots) - 1)
        return (
            f"<Picture of {count} plot{'s' * (count != 1)}, {WIDTH} x {height:g}. Show it in a notebook, or save it: "
            'picture.save("FILE.svg")>'
        )

    def _heights(self) -> list[float]:
        found = [_HEIGHT.search(plot) for plot in self.plots]
        return [float(one[1]) for one in found if one is not None]
