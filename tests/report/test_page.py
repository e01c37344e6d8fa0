import html.parser
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.report import Page, Series, Table, line_chart

VOID = {"meta", "br", "hr"}


class Reader(html.parser.HTMLParser):
    """Collects tags and text, and checks that every element is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page.render())
    reader.close()
    assert reader.open == []
    return reader


def full(text="x"):
    page = Page(text, text)
    page.heading(text)
    page.heading(text, 3)
    page.paragraph(text)
    page.note(text, "bad")
    page.facts({text: text, "rows": 12345})
    page.table(Table(headers=(text,), rows=((text,), (0.5,)), caption=text))
    page.figure(line_chart([Series(name=text, x=[0, 1], y=[0.0, 1.0])], title=text), text)
    return page


@given(
    st.text(min_size=1, max_size=30)
    | st.sampled_from(["</style><script>alert(1)</script>", '" onload="x', "<!--", "&lt;"])
)
def test_no_text_can_add_an_element_or_an_attribute(text):
    plain = [(tag, sorted(attrs)) for tag, attrs in read(full()).tags]
    assert [(tag, sorted(attrs)) for tag, attrs in read(full(text)).tags] == plain


@pytest.mark.fast
def test_a_page_stands_alone_and_is_the_same_each_time():
    rendered = full().render()
    assert rendered == full().render()
    assert rendered.startswith("<!doctype html>")
    assert re.findall(r'(?:src|href)="(?!#)', rendered) == []
    assert set(re.findall(r"https?://[^\"' ]+", rendered)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in rendered
    assert "url(" not in rendered
    assert rendered.encode("utf-8")


def test_three_sections_bring_a_list_of_links_that_lead_somewhere():
    page = Page("t")
    for name in ("one", "two", "three"):
        page.heading(name)
        page.paragraph("text")
    found = read(page)
    targets = [attrs["href"][1:] for tag, attrs in found.tags if tag == "a"]
    assert targets == [attrs["id"] for tag, attrs in found.tags if tag == "h2"]
    assert len(targets) == 3


def test_a_figure_must_come_from_a_plot():
    with pytest.raises(Misuse, match="found str"):
        Page("t").figure("<svg></svg>")


@pytest.mark.fast
def test_reports_and_names_of_stats_load_no_numpy():
    code = "import sys, trimtab.report, trimtab.stats; trimtab.stats.Interval; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
