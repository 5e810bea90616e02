"""Marks ↔ posts is exact or refused; mistakes are named by file and line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from scripts.marks import app, format_marks, parse_marks, read_meta
from scripts.posts import Post, read_posts

EXACT = [
    # marked, text, spans
    ("=== a\nUse [[Python|T]].\n", "Use Python.", [(4, 10, "TECHNOLOGY")]),
    ("=== a\n\n \n  x [[ETL|K]]\t\n\n\n", "  x ETL\t", [(4, 7, "TECHNICAL")]),
    ("=== a\n[[A|B]]\n\n[[b c|S]]", "A\n\nb c", [(0, 1, "BUSINESS"), (3, 6, "SOFT")]),
    ("=== a\r\n[[C++|T]]\r\nx\r\n", "C++\nx", [(0, 3, "TECHNOLOGY")]),
    ("=== a\n[[x|MY_LABEL]] [[y|TECHNICAL]]", "x y", [(0, 1, "MY_LABEL"), (2, 3, "TECHNICAL")]),
    (
        "=== a\n[x] a|b == [[p|q|K]][[r|S]]]",
        "[x] a|b == p|qr]",
        [(11, 14, "TECHNICAL"), (14, 15, "SOFT")],
    ),
    ("=== a\n😀 é\u2028[[日本|T]]", "😀 é\u2028日本", [(4, 6, "TECHNOLOGY")]),
    ("\n\n=== a\nno marks", "no marks", []),
]
REFUSED_MARKS = [
    # marked, line, what the message names
    ("=== a\nx\ny [[open", 3, "'y [[open'"),
    ("=== a\n[[open|K\nclose|K]]", 2, "'[[open|K'"),
    ("=== a\n[[open\nclose|K]]", 3, "'close|K]]'"),
    ("=== a\n[[x|K\n]]", 3, "']]'"),
    ("=== a\nstray]]", 2, "'stray]]'"),
    ("=== a\n[[n [[m|K]] o|K]]", 2, "[[n [[m|K]] o|K]]"),
    ("=== a\n[[no label]]", 2, "'[[no label]]'"),
    ("=== a\n\n[[Java|Q]]", 3, "'Java': unknown label 'Q'"),
    ("=== a\n[[Java|k]]", 2, "'Java': unknown label 'k'"),
    ("=== a\n[[Java|]]", 2, "'Java': unknown label ''"),
    ("=== a\n[[|K]]", 2, "'[[|K]]': empty"),
    ("=== a\n[[ Java|K]]", 2, "'[[ Java|K]]'"),
    ("=== a\n[[Java |K]]", 2, "'[[Java |K]]'"),
    ("=== a\nx\n=== b\ny\n=== a\nz", 5, "'=== a': expected `=== id` with an id of its own"),
    ("=== a\nx\n===\ny", 3, "'==='"),
    ("=== a\nx\n====\ny", 3, "'===='"),
    ("\n\nhello\n=== a\nx", 3, "'hello'"),
    ("", 1, "expected a line `=== id`"),
    ("=== a\nx\n=== b\n \n\n=== c\nx", 3, "post 'b' has no text"),
    ("=== a\none\rtwo", 2, "'one\\rtwo'"),
]
REFUSED_POSTS = [
    ("a [[ b", [], "unclosed"),
    ("a ]] b", [], "unclosed"),
    ("x\n=== b", [], "begins with `===`"),
    ("=== b\nx", [], "begins with `===`"),
    ("x\r\ny", [], "carriage return"),
    ("x\ry", [], "marks cannot represent"),
    ("\nx", [], "blank lines around"),
    ("x\n \t", [], "blank lines around"),
    (" \n", [], "no text"),
    ("abcd", [(0, 2, "SOFT"), (1, 3, "SOFT")], "overlap"),
    ("abcd", [(0, 2, "SOFT"), (0, 2, "TECHNICAL")], "overlap"),
    ("ab c", [(0, 3, "SOFT")], "white space at a border"),
    ("ab\nc", [(0, 4, "SOFT")], "marks cannot represent"),
    ("[ab", [(1, 3, "SOFT")], "bracket"),
    ("ab", [(0, 2, "T")], "marks would change it"),
    ("ab", [(0, 2, "no label")], "unknown label"),
    ("ab", [(0, 2, "")], "unknown label"),
]


def make(
    name: str, text: str, spans: list[tuple[int, int, str]] | None = None, where: str = ""
) -> Post:
    return Post(text, spans or [], {"id": name}, where)


def write_posts(path: Path, *posts: dict[str, Any] | str) -> Path:
    lines = [post if isinstance(post, str) else json.dumps(post) for post in posts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def post_of(text: str, *spans: tuple[int, int, str], id: str = "a") -> dict[str, Any]:
    keys = ("start", "end", "label")
    made = [dict(zip(keys, span, strict=True)) for span in spans]
    return {"text": text, "spans": made, "meta": {"id": id}}


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize(("marked", "text", "spans"), EXACT)
def test_marks_are_read_exactly(marked: str, text: str, spans: list[tuple[int, int, str]]) -> None:
    [post] = parse_marks(marked, "in.txt")
    assert (post.id, post.text, post.spans) == ("a", text, spans)


@pytest.mark.parametrize(("marked", "line", "named"), REFUSED_MARKS)
def test_faulty_marks_are_refused(marked: str, line: int, named: str) -> None:
    with pytest.raises(ValueError, match=r"^in\.txt:") as caught:
        parse_marks(marked, "in.txt")
    found = str(caught.value).split("\n")
    assert any(error.startswith(f"in.txt:{line}: ") and named in error for error in found), found


def test_all_errors_are_named() -> None:
    marked = "=== a\n[[x|Q]] [[y|Z]]\n\nz]]\n=== a\n=== b\n[[ w|K]]"
    with pytest.raises(ValueError, match=r"^in\.txt:") as caught:
        parse_marks(marked, "in.txt")
    lines = [error.split(": ")[0] for error in str(caught.value).split("\n")]
    assert lines == ["in.txt:2", "in.txt:2", "in.txt:4", "in.txt:5", "in.txt:5", "in.txt:7"]


def test_posts_are_written_exactly() -> None:
    posts = [
        make("a", "Use C++ at Home.", [(4, 7, "TECHNOLOGY"), (11, 15, "MY_LABEL")]),
        make("b 2", "  x\n\ny", [(5, 6, "SOFT")]),
    ]
    marked = "=== a\nUse [[C++|T]] at [[Home|MY_LABEL]].\n\n=== b 2\n  x\n\n[[y|S]]\n"
    assert format_marks(posts) == marked
    assert [(p.id, p.text, p.spans) for p in parse_marks(marked, "")] == [
        (p.id, p.text, p.spans) for p in posts
    ]


@pytest.mark.parametrize(("text", "spans", "reason"), REFUSED_POSTS)
def test_what_marks_cannot_hold_is_refused(
    text: str, spans: list[tuple[int, int, str]], reason: str
) -> None:
    fine = make("fine", "fine", where="in.jsonl:1")
    with pytest.raises(ValueError, match=r"^in\.jsonl:2: post 'a': ") as caught:
        format_marks([fine, make("a", text, spans, where="in.jsonl:2")])
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " a", "a\nb"])
def test_odd_ids_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^in\.jsonl:1: post "):
        format_marks([make(name, "x", where="in.jsonl:1")])


def test_one_id_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^in\.jsonl:2: post 'a': its id stands twice"):
        format_marks([make("a", "x", where="in.jsonl:1"), make("a", "y", where="in.jsonl:2")])


@st.composite
def posts_of(draw: st.DrawFn, alphabet: str) -> Post:
    text = draw(st.text(alphabet, min_size=1, max_size=30))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    labels = st.sampled_from(["TECHNOLOGY", "TECHNICAL", "BUSINESS", "SOFT", "OWN_LABEL", "K"])
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return make("a", text, [(start, end, draw(labels)) for start, end in pairs])


@settings(max_examples=250, deadline=None)
@given(posts_of("ab[]|= \n\r\t.é😀\u2028"))
def test_any_post_comes_back_or_is_refused(post: Post) -> None:
    try:
        marked = format_marks([post])
    except ValueError:
        return
    [back] = parse_marks(marked, "")
    assert (back.id, back.text, back.spans) == (post.id, post.text, post.spans)


@settings(max_examples=100, deadline=None)
@given(posts_of("abé😀.+#"), posts_of("xyz-_"))
def test_plain_posts_are_never_refused(one: Post, two: Post) -> None:
    two.meta["id"] = "b"
    for post in (one, two):
        post.spans = [(start, end, "OWN_LABEL") for start, end, _ in post.spans]
    back = parse_marks(format_marks([one, two]), "")
    assert [(p.id, p.text, p.spans) for p in back] == [(p.id, p.text, p.spans) for p in (one, two)]


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from([*"ab[]|K=\n\r ", "\n=== ", "[[", "|K]]"]), max_size=25))
def test_what_is_read_is_written_again(pieces: list[str]) -> None:
    try:
        posts = parse_marks("=== p" + "".join(pieces), "")
    except ValueError:
        return
    back = parse_marks(format_marks(posts), "")
    assert [(p.id, p.text, p.spans) for p in back] == [(p.id, p.text, p.spans) for p in posts]


def test_to_posts_and_back_on_disk(tmp_path: Path) -> None:
    marked, posts, again = tmp_path / "in.txt", tmp_path / "posts.jsonl", tmp_path / "again.jsonl"
    specs = tmp_path / "specs.tsv"
    marked.write_bytes("=== p1\n[[Zürich|T]] x\n\n=== p2\ny\n".encode())
    specs.write_text("p1\tdata analyst, hospital, US\n", encoding="utf-8")
    result = run("to-posts", marked, posts, "--meta", specs, "--set", "register=formal")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "2 posts, 1 spans: {'TECHNOLOGY': 1}"
    assert result.stdout.splitlines()[1].endswith("specs.tsv: p2")
    assert posts.read_bytes().decode() == (
        '{"text": "Zürich x", "spans": [{"start": 0, "end": 6, "label": "TECHNOLOGY"}], "meta": '
        '{"id": "p1", "role": "data analyst", "spec": "data analyst, hospital, US", '
        '"register": "formal"}}\n'
        '{"text": "y", "spans": [], "meta": {"id": "p2", "register": "formal"}}\n'
    )
    assert run("to-marks", posts, marked).exit_code == 0
    assert marked.read_bytes() == "=== p1\n[[Zürich|T]] x\n\n=== p2\ny\n".encode()
    assert run("to-posts", marked, again, "--meta", posts).exit_code == 0
    assert again.read_bytes() == posts.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["in.txt", "posts.jsonl", "again.jsonl", "specs.tsv"]
    )


BAD_FILES = [
    # content, line, what the message names
    (b'{"text": "x", "spans": [], "meta": {"id": "a"}}\n{"text"\n', 2, "JSON"),
    (b'{"text": 1, "spans": [], "meta": {"id": "a"}}\n', 1, "expected an object"),
    (b"[1]\n", 1, "expected an object"),
    (b'{"text": "x", "spans": [{"start": 0}], "meta": {"id": "a"}}\n', 1, "end"),
    (b'{"text": "x", "spans": [], "meta": {"id": "a"}, "y": "\\ud800"}\n', 1, "surrogate"),
    (b'{"text": "x", "spans": [], "meta": {"id": "a"}}\n\n"\xff"\n', 3, "UTF-8"),
    (json.dumps(post_of("abc", (0, 4, "SOFT"))).encode(), 1, "span 0-4 SOFT 'abc': out of range"),
    (json.dumps(post_of("abc", (-1, 2, "SOFT"))).encode(), 1, "span -1-2"),
    (json.dumps(post_of("abc", (1, 1, "SOFT"))).encode(), 1, "empty"),
    (
        json.dumps(post_of("abc") | {"spans": [{"start": 0.5, "end": 2, "label": "S"}]}).encode(),
        1,
        "0.5",
    ),
    (
        json.dumps(post_of("abc") | {"spans": [{"start": 0, "end": 2, "label": None}]}).encode(),
        1,
        "None",
    ),
]


@pytest.mark.parametrize(("content", "line", "named"), BAD_FILES)
def test_lines_that_are_no_posts_are_named(
    tmp_path: Path, content: bytes, line: int, named: str
) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_bytes(content)
    result = run("to-marks", path, tmp_path / "out.txt")
    assert result.exit_code == 1
    assert result.output.startswith(f"{path}:{line}: ")
    assert result.output.count("\n") == 1
    assert named in result.output
    assert not (tmp_path / "out.txt").exists()


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(post_of("x")).encode())
    assert [post.text for post in read_posts(path)] == ["x"]


@pytest.mark.parametrize("line", ["p2 without a tab", "p1\tagain"])
def test_faulty_specs_are_refused(tmp_path: Path, line: str) -> None:
    specs = tmp_path / "specs.tsv"
    specs.write_text(f"p1\tanalyst\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"specs\.tsv:2: "):
        read_meta(specs)


def test_mistakes_end_without_traceback(tmp_path: Path) -> None:
    latin, good, out = tmp_path / "latin.txt", tmp_path / "good.txt", tmp_path / "out.jsonl"
    latin.write_bytes(b"=== a\nfine\ncaf\xe9\n")
    good.write_bytes(b"=== a\nfine\n")
    mistakes = {
        f"{latin}:3: not UTF-8": ["to-posts", latin, out],
        f"{tmp_path / 'none.txt'}: No such file": ["to-posts", tmp_path / "none.txt", out],
        "--set 'register'": ["to-posts", good, out, "--set", "register"],
    }
    for message, command in mistakes.items():
        result = run(*command)
        assert result.exit_code == 1
        assert result.output.startswith(message)
        assert result.output.count("\n") == 1
        assert not out.exists()


def test_mistakes_of_the_command_line_end_without_traceback(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("=== a\n[[x|Q]]\ny]]\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "scripts.marks", "to-posts", tmp_path / "in.txt", tmp_path / "out"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"{tmp_path / 'in.txt'}:2: 'x': unknown label 'Q'")
    assert second.startswith(f"{tmp_path / 'in.txt'}:3: 'y]]'")
