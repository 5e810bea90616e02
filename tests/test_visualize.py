"""Pages that show a pipeline's spans beside the gold ones, on a small real transformer."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import spacy
import typer
from conftest import POSTS, gold, make_examples, write_posts
from spacy.language import Language
from spacy.tokens import DocBin
from typer.testing import CliRunner

from scripts.posts import Post
from scripts.visualize import COLORS, OTHER_COLORS, visualize, visualize_cli

HOSTILE = 'Python & <script>alert("1")</script> </mark>\r\nsee https://example.org'


class Text(HTMLParser):
    """A page as a browser reads it.

    columns: Of each section the marks: colour, class, text and note.
    rows: The text of each table cell, without the head.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.columns, self.rows, self.within = "", [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.rows = [row for row in self.rows if row[:1] not in (["What"], ["Post"])]
        self.links = [attributes["href"] for tag, attributes in self.tags if tag == "a"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "section":
            self.columns.append([])
        elif tag == "mark" and self.columns:
            self.columns[-1].append([attributes["style"].split()[-1], attributes["class"]])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.within = tag if tag in ("mark", "td", "th") else self.within

    def handle_endtag(self, tag: str) -> None:
        self.within = "" if tag in ("mark", "td", "th") else self.within

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.within == "mark" and self.columns:
            self.columns[-1][-1].append(data.strip())
        elif self.within in ("td", "th"):
            self.rows[-1][-1] += data


def to_posts(posts: list[dict]) -> list[Post]:
    return [Post(post["text"], gold(post), post["meta"]) for post in posts]


@pytest.fixture(scope="module")
def run(trained: Language, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """The command, on a pipeline in a folder and POSTS as corpus; RETURNS: its exit and output."""
    folder = tmp_path_factory.mktemp("visualize")
    trained.to_disk(folder / "model")
    docs = [example.reference for example in make_examples(trained)]
    DocBin(docs=docs, store_user_data=True).to_disk(folder / "test.spacy")
    app = typer.Typer()
    app.command()(visualize_cli)

    def invoke(output: Path, *args: object, pipeline: Path = folder / "model") -> tuple[int, str]:
        defaults = [pipeline, "--corpus", folder / "test.spacy", "--output", output]
        result = CliRunner().invoke(app, [*map(str, defaults), *map(str, args)])
        return result.exit_code, result.output

    return invoke


def test_shows_gold_beside_predicted_with_confidence(run: Callable, tmp_path: Path) -> None:
    output = tmp_path / "reports"
    code, printed = run(output, "--limit", 3)
    assert (code, printed.splitlines()[-1]) == (0, f"3 of 4 posts in {output / 'index.html'}")
    pages = [f"post-00{i}.html" for i in (1, 2, 3)]
    assert sorted(path.name for path in output.iterdir()) == ["index.html", *pages]
    left, right = Text(output / pages[0]).columns
    blue, pink = COLORS["TECHNOLOGY"], COLORS["SOFT"]
    drawn = [[blue, "right", "Python"], [blue, "right", "SQL"], [pink, "right", "communication"]]
    assert [mark[:3] for mark in left] == [mark[:3] for mark in right] == drawn
    assert [mark[3] for mark in left] == ["TECHNOLOGY", "TECHNOLOGY", "SOFT"]
    notes = " ".join(mark[3] for mark in right)
    score = r"(0\.[5-9]\d|1\.00)"
    assert re.fullmatch(f"TECHNOLOGY {score} TECHNOLOGY {score} SOFT {score}", notes)
    links = [[link for link in Text(output / page).links if link != "index.html"] for page in pages]
    assert links == [[pages[1]], [pages[0], pages[2]], [pages[1]]]


def test_index_counts_and_links(trained: Language, tmp_path: Path) -> None:
    posts = to_posts(POSTS[:2])
    posts[0].spans[1:] = [(*posts[0].spans[1][:2], "BUSINESS")]
    assert visualize(trained, posts, tmp_path / "reports") == 2
    index = Text(tmp_path / "reports" / "index.html")
    assert index.links == ["post-001.html", "post-002.html"]
    assert index.rows == [
        ["We need Python and SQL.", "2", "3", "1"],
        ["Senior Python engineer", "2", "2", "2"],
        ["All", "4", "5", "3"],
    ]


def test_names_each_difference(trained: Language, tmp_path: Path) -> None:
    text = POSTS[0]["text"]
    changed = {"need": "TECHNICAL", "Python": "Custom", "communication skills": "SOFT"}
    spans = [(text.index(s), text.index(s) + len(s), label) for s, label in changed.items()]
    spans += [(text.index("skills"), text.index("skills") + 6, "SOFT"), (500, 505, "SOFT")]
    visualize(trained, [Post(text, spans, {})], tmp_path / "reports")
    page = Text(tmp_path / "reports" / "post-001.html")
    assert [
        [kind, left, re.sub(r" [01]\.\d\d$", " P", right)] for kind, left, right in page.rows
    ] == [
        ["missed", "need · TECHNICAL", ""],
        ["wrong label", "Python · Custom", "Python · TECHNOLOGY P"],
        ["spurious", "", "SQL · TECHNOLOGY P"],
        ["wrong border", "communication skills · SOFT", "communication · SOFT P"],
        ["missed", "skills · SOFT", ""],
        ["not drawn", "skills · SOFT", ""],
        ["missed", " · SOFT", ""],
        ["not drawn", " · SOFT", ""],
    ]
    assert [mark[1:3] for mark in page.columns[0]] == [
        ["wrong", "need"],
        ["wrong", "Python"],
        ["wrong", "communication skills"],
    ]
    assert {mark[1] for mark in page.columns[1]} == {"wrong"}


def test_posts_cannot_act_on_the_page(tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "<i>&", "pattern": "Python"}])
    visualize(nlp, [Post(HOSTILE, [(0, 6, "<i>&")], {"id": "<b>"})], tmp_path / "reports")
    page = Text(tmp_path / "reports" / "post-001.html")
    assert page.columns == [[[OTHER_COLORS[0], "right", "Python", "<i>&"]]] * 2
    shown = HOSTILE.replace("Python", "Python <i>&").replace("\r\n", " ")
    assert page.text.count(shown) == 2
    assert "Post <b>." in page.text
    assert not {"script", "i", "b"} & {tag for tag, _ in page.tags}


def test_opens_without_a_network(trained: Language, tmp_path: Path) -> None:
    post = Post(HOSTILE, [], {})
    visualize(trained, [post, *to_posts(POSTS)], tmp_path / "reports")
    files = {path.name for path in (tmp_path / "reports").iterdir()}
    for name in files:
        content = (tmp_path / "reports" / name).read_text(encoding="utf-8")
        assert "//" not in content.replace("https://example.org", "")
        assert not re.search(r"@import|url\(", content)
        page = Text(tmp_path / "reports" / name)
        assert set(page.links) <= files
        assert not {"link", "script", "img", "iframe"} & {tag for tag, _ in page.tags}
        assert ("html", {"lang": "en"}) in page.tags
        assert ("meta", {"charset": "utf-8"}) in page.tags
        assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)


def test_empty_post(trained: Language, tmp_path: Path) -> None:
    visualize(trained, [Post("", [], {}), Post(" \n\n", [], {})], tmp_path / "reports")
    assert Text(tmp_path / "reports" / "post-001.html").columns == [[], []]
    titles = [row[0] for row in Text(tmp_path / "reports" / "index.html").rows]
    assert titles == ["(empty post)", "(empty post)", "All"]


def test_long_first_line_is_cut(trained: Language, tmp_path: Path) -> None:
    visualize(trained, [Post("python " * 400, [], {})], tmp_path / "reports")
    title = Text(tmp_path / "reports" / "index.html").rows[0][0]
    assert len(title) <= 100
    assert title.endswith("python …")


def test_rerun_removes_old_pages(run: Callable, tmp_path: Path) -> None:
    output = tmp_path / "reports"
    assert run(output, "--limit", 0)[0] == 0
    assert len(list(output.iterdir())) == 5
    posts = write_posts(tmp_path / "posts.jsonl", POSTS[1:3])
    assert run(output, "--posts", posts)[0] == 0
    names = ["index.html", "post-001.html", "post-002.html"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert "Senior Python engineer" in Text(output / "post-001.html").text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["posts.jsonl", "reports"]


def test_failure_leaves_the_old_pages(trained: Language, tmp_path: Path) -> None:
    output = tmp_path / "reports"
    visualize(trained, to_posts(POSTS), output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(UnicodeEncodeError):
        visualize(trained, [Post("", [], {"id": "\ud800"})], output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert list(tmp_path.iterdir()) == [output]


def test_mistakes_end_in_one_line(run: Callable, tmp_path: Path) -> None:
    output, missing = tmp_path / "reports", tmp_path / "missing"
    for message, (code, printed) in {
        f"{missing}: no pipeline here": run(output, pipeline=missing),
        f"{missing}: not found, make it with": run(output, "--corpus", missing),
        f"{missing}: no annotated posts here": run(output, "--posts", missing),
    }.items():
        assert (code, printed.count("\n")) == (1, 1)
        assert printed.startswith(message)
    assert not output.exists()


def test_refuses_to_replace_a_folder_of_other_files(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.md").write_text("years of work")
    code, printed = run(tmp_path)
    message = f"{tmp_path}: would be replaced, yet holds thesis.md; name another folder.\n"
    assert (code, printed) == (1, message)
    assert (tmp_path / "thesis.md").read_text() == "years of work"
