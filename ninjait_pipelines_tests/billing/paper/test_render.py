"""A document as HTML and PDF: all of its text, the same bytes each time, and nothing that a tenant's text could do."""

import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser

import msgspec
import pytest
from pypdf import PdfReader

from ninjait_pipelines.billing.paper.content import Content, content
from ninjait_pipelines.billing.paper.render import FONTS, html, pdf
from ninjait_pipelines.billing.rating.agreement import Refused
from ninjait_pipelines_tests.billing.paper.papers import ALL, hostile, invoice, long

# Other readers put right-to-left text in another order.
READ_IN_ORDER = [name for name in ALL if name != "right_to_left"]


def read(data: bytes) -> PdfReader:
    return PdfReader(io.BytesIO(data))


def squeezed(text: str) -> str:
    """Without the spaces and line ends that setting a text adds and drops, and what no font of ours has."""
    return re.sub(r"[\s\u200b😀\ufffd\x00]", "", text)


def strings(found: Content) -> Iterator[str]:
    """All text of a paper."""

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (text for name, one in value.items() if name not in ("style", "language") for text in walk(one))
        elif isinstance(value, list | tuple):
            yield from (text for one in value for text in walk(one))

    shown = msgspec.structs.replace(
        found, parties=(msgspec.structs.replace(found.parties[0], heading=""), found.parties[1])
    )
    return walk(msgspec.to_builtins(shown))


class Page(HTMLParser):
    """The elements, attributes and text of a page, as a browser takes them apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("name", "locale"),
    [*((name, "en") for name in READ_IN_ORDER), ("invoice", "de"), ("credit", "ja"), ("japanese", "ja")],
)
def test_the_pdf_has_all_of_the_text(name: str, locale: str) -> None:
    document = ALL[name]()
    pages = read(pdf(document, locale)).pages
    text = squeezed("".join(page.extract_text() for page in pages))
    assert [one for one in strings(content(document, locale)) if squeezed(one) not in text] == []


@pytest.mark.parametrize("name", ALL)
def test_the_html_has_all_of_the_text(name: str) -> None:
    document = ALL[name]()
    text = squeezed(Page(html(document)).text)
    shown = msgspec.structs.replace(content(document), page=())
    assert [one for one in strings(shown) if squeezed(one) not in text] == []


@pytest.mark.parametrize("name", ALL)
def test_the_same_document_gives_the_same_bytes(name: str) -> None:
    assert pdf(ALL[name]()) == pdf(ALL[name]())
    assert html(ALL[name]()) == html(ALL[name]())


def test_another_document_gives_others() -> None:
    other = msgspec.structs.replace(invoice(), number="R-2026-099")
    assert pdf(other) != pdf(invoice())


def test_the_pdf_is_dated_as_of_its_issue() -> None:
    assert read(pdf(invoice())).metadata.creation_date == datetime(2026, 7, 3, 22, 30, tzinfo=UTC)
    draft = msgspec.structs.replace(invoice(), status="draft", issued_at=None)
    assert read(pdf(draft)).metadata.creation_date == draft.period_end


def test_the_pdf_is_titled_and_a4() -> None:
    found = read(pdf(invoice()))
    assert (found.metadata.title, found.metadata.author) == ("Invoice R-2026-042", "Nordlicht IT GmbH")
    assert [round(float(side)) for side in found.pages[0].mediabox[2:]] == [595, 842]


def test_the_pdf_has_its_fonts_in_it() -> None:
    """A reader's own would set the text in another way, or not at all."""
    text = read(pdf(ALL["japanese"](), "ja"))
    fonts = [font.get_object() for font in text.pages[0]["/Resources"]["/Font"].values()]  # type: ignore[index]
    inner = [font["/DescendantFonts"][0].get_object() for font in fonts]
    names = {str(font["/BaseFont"]).partition("+")[2].partition("-")[0] for font in inner}
    assert names == {"SourceSans3", "NotoSansJP"}
    assert names <= {font.replace(" ", "") for font in FONTS}
    assert all("/FontFile2" in (font["/FontDescriptor"]) for font in inner)


def test_many_lines_flow_over_pages_with_head_and_number() -> None:
    pages = [page.extract_text() for page in read(pdf(long())).pages]
    assert len(pages) > 5
    for number, page in enumerate(pages, 1):
        assert "Unit price" in page
        assert f"Page {number} of {len(pages)}" in page
        assert "R-2026-042" in page


def test_no_page_ends_with_the_heading_of_a_product() -> None:
    headings = {row.description for row in content(long()).rows if row.style == "heading"}
    ends = [page.extract_text().split("Invoice R-2026-042")[0].split()[-2:] for page in read(pdf(long())).pages]
    assert not [end for end in ends if end[0] in headings]


def test_what_a_tenant_writes_is_no_markup_in_html() -> None:
    page, plain = Page(html(hostile())), Page(html(invoice()))
    assert page.elements <= plain.elements
    assert page.attributes <= plain.attributes


@pytest.mark.parametrize("name", ["invoice", "hostile"])
def test_the_html_fetches_nothing(name: str) -> None:
    """No attribute names an address, no style does, and the policy forbids what would."""
    page = html(ALL[name]())
    style = page[page.index("<style>") : page.index("</style>")]
    assert Page(page).attributes & {"src", "href", "srcset", "data", "action", "style"} == set()
    assert not re.search(r"url\(|@import|</|evil", style)
    assert "default-src 'none'; style-src 'unsafe-inline'" in page


def test_the_pdf_does_nothing_when_it_is_opened() -> None:
    data = pdf(hostile())
    found = read(data)
    assert not {"/OpenAction", "/AA", "/AcroForm", "/EmbeddedFiles"} & set(found.trailer["/Root"].keys())  # type: ignore[union-attr]
    assert not any(page.get("/Annots") or page.get("/AA") for page in found.pages)
    assert not re.search(rb"/URI|/JavaScript|/Launch|/GoToR", data)


def test_nothing_runs_over_the_edge() -> None:
    """A word of 500 letters breaks: it ran over the columns beside it and out of the page."""
    pages = read(pdf(hostile())).pages
    lines = [len(line) for page in pages for line in re.findall("W+", page.extract_text())]
    assert sum(lines) == 1000
    assert max(lines) < 80, "as many as fit into the page's width"


@pytest.mark.parametrize(("name", "status"), [("long", "draft"), ("invoice", "void")])
def test_a_draft_and_a_void_document_are_stamped_on_each_page(name: str, status: str) -> None:
    document = msgspec.structs.replace(ALL[name](), status=status)
    pages = [page.extract_text() for page in read(pdf(document)).pages]
    assert all(page.count(status.upper()) >= 2 for page in pages)
    assert Page(html(document)).text.count(status.upper()) == 2
    assert status.upper() not in Page(html(ALL[name]())).text


def test_the_html_has_page_numbers_in_print() -> None:
    """In the style a quote must stay a quote: escaped as elsewhere, browsers drop the rule."""
    style = html(hostile()).partition("@page")[2].partition("</style>")[0]
    number, pages = re.findall(r"content: (.*?); font", style)
    assert re.sub(r"\\(\w{6})", lambda one: chr(int(one[1], 16)), number) == '"Invoice <b>"N""'
    assert (
        re.sub(r"\\(\w{6})", lambda one: chr(int(one[1], 16)), pages)
        == '"Page " counter(page) " of " counter(pages) ""'
    )


def test_an_unknown_locale_is_refused() -> None:
    for render in (html, pdf):
        with pytest.raises(Refused, match="'xx' is not known"):
            render(invoice(), "xx")
