import math
import xml.etree.ElementTree as ET

import pytest

from trimtab.core.errors import Misuse
from trimtab.report import curve_chart


@pytest.mark.fast
def test_a_curve_is_drawn_once_with_its_named_places_escaped():
    drawn = str(curve_chart([(0.1, 2.0), (0.5, 1.0), (0.9, 3.0)], title="Cost", places=[(0.5, "<best>"), (1.0, "one")]))
    tree = ET.fromstring(drawn)
    texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert "<best>" in texts
    (path,) = [element for element in tree.iter() if element.tag.endswith("path")]
    assert path.attrib["d"].count("L") == 2
    lines = [element for element in tree.iter() if element.tag.endswith("line")]
    assert all(0.0 <= float(line.attrib["x1"]) <= 760.0 for line in lines)


@pytest.mark.fast
def test_one_point_and_a_level_curve_are_drawn():
    for points in ([(0.5, 0.0)], [(0.1, 1.0), (0.9, 1.0)]):
        ET.fromstring(str(curve_chart(points, title="Cost", x_label="from")))


@pytest.mark.fast
@pytest.mark.parametrize("points", [[], [(0.0, math.nan)], [(math.inf, 1.0)]])
def test_what_cannot_be_drawn_is_refused(points: list[tuple[float, float]]):
    with pytest.raises(Misuse, match="'Cost': needs at least one point"):
        curve_chart(points, title="Cost")
