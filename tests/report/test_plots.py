import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.report import Bar, CalibrationPoint, Mark, Series, bar_chart, calibration_plot, line_chart

SVG = "{http://www.w3.org/2000/svg}"
DAY = 86_400_000_000
values = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30)


def numbers(root):
    for element in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if name in element.attrib:
                yield float(element.attrib[name])
        yield from (float(n) for n in re.findall(r"-?\d+\.\d+", element.attrib.get("d", "")))


@given(st.lists(st.tuples(st.text(max_size=30), values), min_size=1, max_size=9), st.text(max_size=40))
def test_any_name_and_any_gap_gives_wellformed_svg_with_every_point_on_the_sheet(data, title):
    series = [Series(name=name, x=[i * DAY for i in range(len(ys))], y=ys) for name, ys in data]
    marks = [Mark(at_us=2 * DAY, label=name, kind="alarm") for name, _ in data]
    if not any(y is not None and math.isfinite(y) for _, ys in data for y in ys):
        with pytest.raises(Misuse, match="no finite value"):
            line_chart(series, title=title, marks=marks)
        return
    root = ET.fromstring(line_chart(series, title=title, marks=marks))
    height = float(root.attrib["viewBox"].split()[3])
    assert all(-1 <= n <= max(760.0, height) for n in numbers(root))


def drawn(svg):
    return [p.attrib["d"] for p in ET.fromstring(svg).iter(f"{SVG}path")]


@pytest.mark.fast
def test_a_gap_breaks_the_line_and_a_lone_point_is_a_dot():
    svg = line_chart([Series(name="a", x=range(7), y=[1, 2, None, 5, float("nan"), 3, 4])], title="t")
    (path,) = drawn(svg)
    assert path.count("M") == 2
    assert len(list(ET.fromstring(svg).iter(f"{SVG}circle"))) == 1


def test_a_band_breaks_where_either_bound_is_missing():
    svg = line_chart(
        [Series(name="a", x=range(5), y=[1.0] * 5, low=[0, 0, None, 0, 0], high=[2, 2, 2, 2, 2])], title="t"
    )
    assert drawn(svg)[0].count("Z") == 2


def test_marks_close_together_get_rows_of_their_own_and_the_rest_keep_their_lines():
    marks = [Mark(at_us=DAY + i, label=f"alarm {i}", kind="alarm") for i in range(6)]
    root = ET.fromstring(line_chart([Series(name="a", x=[0, 2 * DAY], y=[1.0, 2.0])], title="t", marks=marks))
    texts = [t for t in root.iter(f"{SVG}text") if (t.text or "").startswith("alarm")]
    assert len({t.attrib["y"] for t in texts}) == len(texts) == 4
    hints = [t.text for t in root.iter(f"{SVG}title") if (t.text or "").startswith("alarm")]
    assert len(hints) == 6
    assert hints[0] == "alarm 0 (1970-01-02 00:00 UTC)"


def test_the_label_of_a_mark_does_not_cover_the_highest_tick():
    series = Series(name="a", x=[0, 10], y=[0.0, 1.0])
    root = ET.fromstring(line_chart([series], title="t", marks=[Mark(at_us=0, label="promote")]))
    at = {one.text: float(one.get("y", "0")) for one in root.iter() if one.tag.endswith("text")}
    assert at["1"] - at["promote"] >= 12  # the height of a line


def test_every_plot_names_itself_for_screen_readers_and_fetches_nothing():
    plots = [
        line_chart([Series(name="a", x=[1, 2], y=[1.0, 2.0])], title="over time", x_label="day", y_label="loss"),
        bar_chart([Bar(label="EWR", value=-0.2, low=-0.3, high=0.1), Bar(label="JFK", value=3)], title="by origin"),
        calibration_plot([("m", [CalibrationPoint(mean_score=0.1, label_share=0.2, rows=9)])], title="calibration"),
    ]
    for svg in plots:
        root = ET.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert root.find(f"{SVG}title").text in root.attrib["aria-label"]
        assert root.find(f"{SVG}desc").text
        assert svg.count("http") == 1  # the name of the SVG language
        assert "<script" not in svg


def test_bars_start_at_zero_on_both_sides():
    root = ET.fromstring(bar_chart([Bar(label="a", value=-2), Bar(label="b", value=4)], title="t"))
    left, right = root.iter(f"{SVG}rect")
    zero = float(left.attrib["x"]) + float(left.attrib["width"])
    assert zero == pytest.approx(float(right.attrib["x"]))
    assert float(right.attrib["width"]) == pytest.approx(2 * float(left.attrib["width"]), rel=1e-3)


def test_unfit_series_and_empty_plots_are_refused():
    with pytest.raises(Misuse, match="1 values of y for 2 of x"):
        Series(name="a", x=[1, 2], y=[1.0])
    with pytest.raises(Misuse, match="both low and high"):
        Series(name="a", x=[1], y=[1.0], low=[0.0])
    with pytest.raises(Misuse, match="found 0 bars"):
        bar_chart([], title="t")
    with pytest.raises(Misuse, match="no bin with rows"):
        calibration_plot([("m", [])], title="t")
