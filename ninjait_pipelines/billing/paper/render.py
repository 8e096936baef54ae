"""A document as HTML and as PDF: pure functions, which read nothing but their templates and fonts.

The same document gives the same bytes. What a tenant wrote is data in both: Jinja escapes it, and Typst sets it as text
without evaluating it. Nothing is fetched: the HTML's policy forbids it, and the templates name no file.
"""

import functools
from importlib.resources import files
from pathlib import Path

import jinja2
import msgspec
import typst

from ninjait_pipelines.billing.paper.content import content
from ninjait_pipelines.billing.rating.document import Document

FOLDER = Path(__file__).parent
# The first that has a character sets it; where Chinese and Japanese write one differently, the Japanese form is used.
FONTS = ("Source Sans 3", "Noto Sans JP", "Noto Sans", "Noto Sans KR", "Noto Sans SC", "Rubik")


def html(document: Document, locale: str = "en") -> str:
    """A page that stands alone; printed, it is A4 with page numbers. Raises Refused for an unknown locale."""
    return _template().render(paper=content(document, locale))


def pdf(document: Document, locale: str = "en") -> bytes:
    """A4, dated as of the document's issue, or of the period's end as a draft. Raises Refused for an unknown locale."""
    at = document.issued_at or document.period_end
    return typst.compile(
        FOLDER / "paper.typ",
        root=FOLDER,
        font_paths=_fonts(),
        sys_inputs={"paper": _json(content(document, locale)), "fonts": _json(FONTS)},
        format="pdf",
        timestamp=at.replace(microsecond=0),  # Typst takes whole seconds only
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["css"] = _css_string
    return environment.from_string((FOLDER / "paper.html").read_text())


def _css_string(text: str) -> str:
    """A string of CSS. Each character is written as its number, so nothing in it can end the string."""
    return '"' + "".join(f"\\{ord(one):06x}" for one in text) + '"'


@functools.cache
def _fonts() -> typst.Fonts:
    """Those of the wheel: with the machine's, each machine would set the document in another way."""
    folders = (files("rendercv_fonts") / name for name in ("Source Sans 3", "Noto Sans"))
    paths = [str(folder) for folder in (*folders, files("fontpkg_rubik") / "files")]
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=paths)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
