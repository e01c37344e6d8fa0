"""Write a document as one HTML file, which loads nothing else, and in which every text is escaped."""

from trimtab.report.document import Document, Facts, Heading, Paragraph, Part
from trimtab.report.drawing import PALETTE
from trimtab.report.markup import Markup, join, tag
from trimtab.report.tables import Table, html_table, written

_DARK = ("#5fb3f0", "#ff9147", "#3fd1a4", "#e6a3c9", "#e0b341", "#8fd3ff", "#b0b0b0")


def html_page(document: Document, *, home: bool = False) -> str:
    """Return the document as an HTML page. Write it to a file as UTF-8. With `home`, it links to the service's "/"."""
    links = [
        tag("li", tag("a", part.content.text, href=f"#section-{at}"))
        for at, part in enumerate(document.parts)
        if isinstance(part.content, Heading) and part.content.level == 2
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", document.title),
        Markup(f"<style>{_STYLE}</style>"),
    )
    body = tag(
        "body",
        tag(
            "main",
            tag("a", "Overview", href="/") if home else None,
            tag("h1", document.title),
            tag("p", document.subtitle, class_="subtitle") if document.subtitle else None,
            tag("nav", tag("ul", *links), aria_label="Sections") if len(links) > 2 else None,
            join(*(_part(part, at) for at, part in enumerate(document.parts)), between="\n"),
        ),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _part(part: Part, at: int) -> Markup:
    match part.content:
        case Heading(text, level):
            return tag(f"h{level}", text, id=f"section-{at}")
        case Paragraph(text, None):
            return tag("p", text)
        case Paragraph(text, tone):
            prefix = part.content.prefix
            return tag("p", tag("strong", prefix) if prefix else None, text, class_=f"note {tone}")
        case Facts(values):
            return tag("dl", *(tag("div", tag("dt", name), tag("dd", written(v))) for name, v in values.items()))
        case Table():
            return html_table(part.content)
        case plot:
            under = tag("figcaption", plot.caption) if plot.caption else None
            return tag("figure", tag("div", plot.svg, class_="scroll", tabindex=0), under)


def _series(colours: tuple[str, ...]) -> str:
    return "".join(f"--series-{number}:{colour};" for number, colour in enumerate(colours, 1))


_STYLE = (
    (
        ":root{--ink:#1d2430;--faint:#5d6675;--grid:#e3e6ea;--paper:#fff;--box:#f5f7f9;--link:#0b5cad;"
        "--good:#1e7d4f;--bad:#b3261e;--warning:#8a5a00;" + _series(PALETTE) + "}"
        "@media screen and (prefers-color-scheme:dark){:root{"
        "--ink:#e6e9ee;--faint:#a3acb9;--grid:#333b47;--paper:#14181f;"
        "--box:#1d232c;--link:#7db8f5;--good:#5fd39a;--bad:#ff8a80;--warning:#e8b54a;" + _series(_DARK) + "}}"
    )
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:880px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.7em;line-height:1.2;margin:.2em 0}
h2{font-size:1.25em;margin:2em 0 .5em;padding-bottom:.2em;border-bottom:1px solid var(--grid)}
h3{font-size:1.05em;margin:1.5em 0 .4em}
p{max-width:70ch;overflow-wrap:anywhere}
.subtitle{color:var(--faint);margin-top:0}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:.8em 0;padding:0}
a{color:var(--link)}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;margin:.8em 0;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--faint);padding-bottom:4px}
th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid)}
th+th,td+td{padding-left:12px}
th{font-weight:600;white-space:nowrap;border-bottom:2px solid var(--grid)}
.right{text-align:right}
td.right,.whole{white-space:nowrap}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:10px;margin:1em 0}
dl div{background:var(--box);border-radius:6px;padding:8px 12px}
dt{color:var(--faint);font-size:.85em}
dd{margin:0;font-size:1.15em;font-weight:600;overflow-wrap:anywhere}
figure{margin:1.4em 0}
figure svg{display:block;width:100%;min-width:680px;height:auto}
figcaption{color:var(--faint);font-size:.9em;max-width:70ch}
.subtitle,.note{max-width:none}
.note{border-left:4px solid var(--faint);background:var(--box);padding:8px 12px;border-radius:0 6px 6px 0}
.note.good{border-color:var(--good)}.note.good strong{color:var(--good)}
.note.bad{border-color:var(--bad)}.note.bad strong{color:var(--bad)}
.note.warning{border-color:var(--warning)}.note.warning strong{color:var(--warning)}
@media print{main{max-width:none;padding:0}nav{display:none}figure,tr,dl div{break-inside:avoid}
h2,h3{break-after:avoid}.scroll{overflow:visible}figure svg{min-width:0}}
"""
)
