"""reports/index.html: one file, whose texts cannot run, whose links and figures lead somewhere."""

import base64
import re
from html.parser import HTMLParser

import pytest

from fgaa_utils.figures import escape_markdown
from fgaa_utils.pipeline import index
from fgaa_utils.pipeline.pages import Page

PNG = b"\x89PNG bytes"
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<b onmouseover=alert(1)>bold</b>",
    "<svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>link</a>",
    "[link](javascript:alert(1))",
    "![image](https://example.org/track.png)",
    "<iframe src=https://example.org></iframe>",
    "<style>body{display:none}</style>",
    "</td></table></section><script>alert(1)</script>",
    "<!-- gone",
]


class Elements(HTMLParser):
    """All elements with their attributes, all ids, and the text outside of <style>."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.ids, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.open.append(tag)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        self.text += "" if self.open and self.open[-1] == "style" else data

    def of(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty reports folder with one figure; the verdict is a line; no page is older than its notebook."""
    monkeypatch.setattr(index, "REPORTS", tmp_path)
    monkeypatch.setattr(index, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(
        index, "verdict_block", lambda: "1. **FGAA wins.** Really.\n\n| method | BCS |\n|---|---|\n| FGAA | 1 |"
    )
    monkeypatch.setattr(Page, "is_stale", lambda page: page.source == "old")
    (tmp_path / "pages" / "sae_files").mkdir(parents=True)
    (tmp_path / "pages" / "sae_files" / "loss.png").write_bytes(PNG)
    return tmp_path


def page(text="", name="sae", source="new"):
    return Page(name, source, f"# Title of {name}\n\nProse.\n\n## Answer\n\n{text}\n")


def written(*pages):
    return Elements(index.write_index(list(pages)).read_text(encoding="utf-8"))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("where", ["| text |\n|---|\n| {} |", "{}", "> {}", "- {}", "<details>\n\n{}\n\n</details>"])
def test_markup_in_a_text_is_inert(attack, where):
    """Even if whoever wrote the table forgot to escape it."""
    found = written(page(where.format(attack)))
    assert {tag for tag, _ in found.found} <= index.TAGS | set(
        "html head meta title style body nav main section".split()
    )
    for _tag, attrs in found.found:
        assert not [name for name in attrs if name.startswith("on")], attrs
        assert not str(attrs.get("href", "")).startswith("javascript"), attrs
        assert not str(attrs.get("src", "data:")).startswith("http"), attrs
    assert len(found.of("style")) == 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_escaped_text_is_shown_as_it_is(attack):
    assert attack in written(page(f"| text |\n|---|\n| {escape_markdown(attack)} |")).text


def test_a_script_in_a_cell_is_shown_as_text():
    assert "<script>alert(1)</script>" in written(page("| text |\n|---|\n| <script>alert(1)</script> |")).text


def test_the_little_markup_of_our_own_stays():
    found = written(
        page(
            "| contexts |\n|---|\n| is<b>[ angry]</b> at<br> her |\n\n<details>\n<summary>Values</summary>\n\nx\n\n</details>"
        )
    )
    assert found.of("b") and found.of("br") and found.of("details") and found.of("summary")


def test_it_begins_with_the_verdict_and_fits_a_telephone():
    found = written(page(), page(name="02_features"))
    assert found.text.index("FGAA wins.") < found.text.index("Contents\n") < found.text.index("Title of sae")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in found.of("meta")
    assert found.of("a")[0] == {"class": "skip", "href": "#contents"}


def test_every_link_within_the_file_leads_to_a_place_in_it():
    found = written(
        page("See [there](02_features.md), [its answer](02_features.md#answer), [here](#answer)."),
        page(name="02_features"),
    )
    anchors = [a["href"][1:] for a in found.of("a") if a["href"].startswith("#")]
    assert {"02_features", "02_features--answer", "sae--answer", "verdict", "contents"} <= set(anchors)
    assert set(anchors) <= set(found.ids) and len(found.ids) == len(set(found.ids))


def test_links_to_files_are_seen_from_the_index():
    found = written(page("[code](../../notebooks/sae.ipynb) [paper](https://arxiv.org/abs/2501.09929)"))
    assert {"../notebooks/sae.ipynb", "https://arxiv.org/abs/2501.09929"} <= {a["href"] for a in found.of("a")}


def test_figures_are_inside_with_their_alternative_text():
    (figure,) = written(page("![Loss falls](sae_files/loss.png)")).of("img")
    assert figure == {"alt": "Loss falls", "src": "data:image/png;base64," + base64.b64encode(PNG).decode()}


@pytest.mark.parametrize(
    "source", ["sae_files/../secret.png", "/etc/secret.png", "../secret.png", "sae_files/none.png"]
)
def test_no_other_file_gets_in(project, source):
    (project / "pages" / "secret.png").write_bytes(PNG)
    (project / "secret.png").write_bytes(PNG)
    assert written(page(f"![x]({source})")).of("img") == [{"alt": "x"}]


def test_headings_go_one_down_below_the_title_of_the_file():
    found = written(page("### Small"))
    assert [tag for tag, _ in found.found if re.fullmatch(r"h\d", tag)] == ["h1", "h2", "h2", "h3", "h4"]


def test_tables_scroll_in_boxes_of_their_own():
    found = written(page("| a |\n|---|\n| b |"))
    assert len(found.of("table")) == 2 == len([d for d in found.of("div") if d.get("class") == "box"])


def test_an_older_page_says_so():
    assert "Older than its notebook" in written(page(source="old")).text
    assert "Older than its notebook" not in written(page()).text


def test_reports_of_settings_and_the_browser_are_linked_if_they_are_there(project):
    assert "Beside this file" not in written(page()).text
    for name, source in (("small", "old"), ("big", "new")):
        (project / "settings" / name / "pages").mkdir(parents=True)
        (project / "settings" / name / "index.html").write_text("")
        (project / "settings" / name / "pages" / "sae.md").write_text(f"<!-- source: {source} -->\n# T\n")
    (project / "samples.html").write_text("")
    found = written(page())
    assert {"samples.html", "settings/small/index.html"} <= {a["href"] for a in found.of("a")}
    assert "The setting small, run with notebooks that have changed since" in found.text
    assert "The setting big\n" in found.text


def test_it_is_the_same_twice(project):
    first = index.write_index([page("![Loss](sae_files/loss.png)")]).read_bytes()
    assert index.write_index([page("![Loss](sae_files/loss.png)")]).read_bytes() == first
