"""Charts of text, of ordinary series and of the smallest ones."""

import pytest

from trimtab.report import text_chart


@pytest.mark.fast
@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0], [-2.0, None, -2.0]])
@pytest.mark.parametrize("height", [1, 3])
def test_a_level_series_has_a_full_bar_for_each_value(values: list[float | None], height: int):
    lines = text_chart(values, height=height)
    assert len(lines) == height
    assert lines[0].count("█") == sum(value is not None for value in values)
