import html.parser
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.report import Document, Series, Table, html_page, line_chart, markdown_text, terminal_text

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
    reader.feed(html_page(page))
    reader.close()
    assert reader.open == []
    return reader


def full(text="x"):
    page = Document(text, text)
    page.heading(text)
    page.heading(text, 3)
    page.paragraph(text)
    page.note(text, "bad")
    page.facts({text: text, "rows": 12345})
    page.table(Table(headers=(text,), rows=((text,), (0.5,)), caption=text))
    page.plot(line_chart([Series(name=text, x=[0, 1], y=[0.0, 1.0])], title=text), text)
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
    rendered = html_page(full())
    assert rendered == html_page(full())
    assert rendered.startswith("<!doctype html>")
    assert re.findall(r'(?:src|href)="(?!#)', rendered) == []
    assert set(re.findall(r"https?://[^\"' ]+", rendered)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in rendered
    assert "url(" not in rendered
    assert rendered.encode("utf-8")


def test_three_sections_bring_a_list_of_links_that_lead_somewhere():
    page = Document("t")
    for name in ("one", "two", "three"):
        page.heading(name)
        page.paragraph("text")
    found = read(page)
    targets = [attrs["href"][1:] for tag, attrs in found.tags if tag == "a"]
    assert targets == [attrs["id"] for tag, attrs in found.tags if tag == "h2"]
    assert len(targets) == 3


def test_a_plot_must_come_from_a_plot():
    with pytest.raises(Misuse, match="found str"):
        Document("t").plot("<svg></svg>")


@pytest.mark.fast
def test_reports_and_names_of_stats_load_no_numpy():
    code = "import sys, trimtab.report, trimtab.stats; trimtab.stats.Interval; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def summary():
    document = Document("churn@7", "29,425 rows")
    document.heading("Quality")
    document.facts({"AUC": 0.759, "rows": 29_425})
    document.table(
        Table(headers=("month", "loss"), rows=(("2013-06", 0.51), ("2013-07", 0.52), ("a|b\nc", 0.5))), most=1
    )
    document.table(Table(headers=("empty",), rows=()))
    document.note("It passed.", "good")
    drawing = line_chart([Series(name="loss", x=[0, 1], y=[0.0, 1.0])], title="loss")
    document.plot(drawing, "By week.", plain=["1 #", "0 ##"])
    document.plot(drawing, "Drawn only.")
    document.heading("Where it came from", detail=True)
    document.paragraph("A recipe.")
    document.heading("Code", 3)
    document.paragraph("A commit.")
    document.heading("Next")
    document.paragraph("Promote\x1b[2J it.")
    document.paragraph("Why.", detail=True)
    return document


def test_a_terminal_shows_the_summary_and_no_details():
    assert terminal_text(summary()) == (
        "churn@7\n29,425 rows\n\nQuality\nAUC   0.759\nrows  29,425\n\n"
        "month    loss\n-------  ----\n2013-06  0.51\n(and 2 more)\n\nGood: It passed.\n\n1 #\n0 ##\nBy week.\n\n"
        "Next\nPromote\ufffd[2J it."
    )


def test_markdown_has_every_part_that_can_be_text():
    assert markdown_text(summary()) == (
        "# churn@7\n\n29,425 rows\n\n## Quality\n\n- AUC: 0.759\n- rows: 29,425\n\n"
        "| month | loss |\n| --- | --- |\n| 2013-06 | 0.51 |\n| 2013-07 | 0.52 |\n| a\\|b c | 0.5 |\n\n"
        "> **Good:** It passed.\n\n```\n1 #\n0 ##\n```\n\nBy week.\n\n"
        "## Where it came from\n\nA recipe.\n\n### Code\n\nA commit.\n\n## Next\n\nPromote\x1b[2J it.\n\nWhy.\n"
    )
