import random
import re
from html.parser import HTMLParser

import pytest
import seaborn as sns
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from fgaa_utils import figures
from fgaa_utils.figures import escape_markdown, save_figure

HARD = [
    "plain words, nothing else.",
    "  two\nlines\tand \r\n  spaces  ",
    "a | b || c",
    "*bold* **bolder** _it_ __all__ ~~gone~~ `code` ``more``",
    "[link](page.md) ![image](x.png) [^1] [ ] [x]",
    "<b>bold</b> <script>alert(1)</script> <!-- gone --> a < b > c",
    "&amp; &lt; &#42; &nbsp; & AT&T",
    r"back\slash \* \| \\ \n",
    "$x_1$ and $$y^2$$ cost $5",
    "# heading",
    "#1 {braces} {{twice}}",
    "« L'été où… » 愛 ❤ ﷽",
    "|",
    "`",
    "\\",
    "",
]
SIGNS = "ab \\`*_{}[]()|$#~<>&;!+-.:\"'^=\n"


class Cells(HTMLParser):
    """Texts of the td elements, and the names of all elements inside of them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.texts, self.inside, self.open = [], [], False

    def handle_starttag(self, tag, attrs):
        if tag == "td":
            self.open = True
            self.texts.append("")
        elif self.open:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        self.open = self.open and tag != "td"

    def handle_data(self, data):
        if self.open:
            self.texts[-1] += data


def shown(text):
    """(cell texts, elements in them) of a rendered Markdown table of two cells, the first with the escaped text."""
    cells = Cells()
    cells.feed(markdown2html_mistune(f"| text | after |\n|---|---|\n| {escape_markdown(text)} | end |\n"))
    return cells.texts, cells.inside


@pytest.mark.parametrize("text", HARD)
def test_a_rendered_cell_shows_the_text_as_it_is(text):
    assert shown(text) == ([" ".join(text.split()), "end"], [])


def test_an_address_becomes_a_link_that_reads_the_same():
    text = "see https://example.org/a_b*c*?d=1&e=[2] there"
    assert shown(text)[0] == [text, "end"]


def test_so_it_does_for_any_mixture_of_signs():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(SIGNS, k=rng.randint(1, 20)))
        assert shown(text) == ([" ".join(text.split()), "end"], []), text


def test_the_table_would_break_without():
    """The oracle sees what goes wrong: the same rendering of raw text."""
    cells = Cells()
    cells.feed(markdown2html_mistune("| text | after |\n|---|---|\n| *a* <i>b</i> | end |\n"))
    assert cells.texts[0] != "*a* <i>b</i>" and cells.inside


def test_the_source_is_one_line_and_words_stay_readable():
    assert escape_markdown("a\n\nb\u2028c") == "a b c"
    assert escape_markdown("\n a\t") == " a "  # outer spaces are kept
    assert re.sub(r"&[#\w]+;", "", escape_markdown("it's 5 < 6, she said: *yes*")) == "it's 5  6, she said: yes"


def test_equal_figures_are_equal_files(tmp_path):
    files = []
    for run in ("one", "two"):
        grid = sns.relplot(x=[1, 2], y=[3, 4])
        save_figure(grid, tmp_path / run / "figures", "line")
        files.append({path.name: path.read_bytes() for path in (tmp_path / run / "figures").iterdir()})
    assert set(files[0]) == {"line.png", "line.pdf"} and files[0] == files[1]


def test_nothing_is_shown_of_no_sentence(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", lambda markdown: shown.append(markdown.data))
    figures.say("", "One.", "", "Two.")
    figures.say("")
    assert shown == ["One. Two."]
