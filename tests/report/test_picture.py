"""Pictures of plots: shown in notebooks, and saved as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from trimtab.core.errors import Misuse, Unavailable
from trimtab.report import Bar, CalibrationPoint, Picture, bar_chart, calibration_plot

BARS = bar_chart([Bar(label="<a>", value=1.0)], title="Rows")
CURVE = calibration_plot([("m", [CalibrationPoint(mean_score=0.5, label_share=0.4, rows=3)])], title="Rates")


def test_plots_stand_one_below_the_other_and_do_not_overlap(tmp_path: Path) -> None:
    picture = Picture((BARS, CURVE))
    file = picture.save(tmp_path / "both.svg")
    root = ET.parse(file).getroot()
    assert picture._repr_svg_() == str(picture) == file.read_text()
    whole = float(root.attrib["viewBox"].split()[3])
    placed = [(float(one.attrib["y"]), float(one.attrib["height"])) for one in root]
    assert placed[0][0] == 0
    assert placed[1][0] >= placed[0][1]
    assert placed[1][0] + placed[1][1] == whole
    assert "&lt;a&gt;" in file.read_text()
    assert "<script" not in file.read_text()


def test_a_picture_says_what_it_is_and_refuses_other_files(tmp_path: Path) -> None:
    assert repr(Picture((BARS,))).startswith("<Picture of 1 plot, 760 x ")
    with pytest.raises(Misuse, match=r"ends in .svg"):
        Picture((BARS,)).save(tmp_path / "bars.png")
    with pytest.raises(Unavailable, match="Check the folder"):
        Picture((BARS,)).save(tmp_path / "nothing" / "bars.svg")
    with pytest.raises(Misuse, match="nothing to draw"):
        Picture(())
