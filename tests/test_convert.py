"""Annotated posts become corpora whole, or are refused by file, line and span."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import POSTS, ROOT, gold, write_posts
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from typer import Typer
from typer.testing import CliRunner

from scripts.convert import convert, convert_cli, split_posts
from scripts.posts import Post, check_posts, find_files, read_posts

VOCAB = spacy.blank("en").vocab
# By the hash of "42:<id>" these posts are test, dev and train.
IDS = {"post1": "test", "post7": "dev", "post2": "train"}
FIT = [{**post, "meta": {"id": name}} for post, name in zip(POSTS, IDS, strict=False)]
TEXT = "We need Python and SQL.\nStrong communication skills."


def post(text: str, *spans: tuple[Any, Any, Any], **meta: Any) -> dict:
    """One annotated post."""
    found = [{"start": a, "end": b, "label": label} for a, b, label in spans]
    return {"text": text, "spans": found, "meta": meta}


def read_corpora(folder: Path) -> dict[str, list[Doc]]:
    """The docs of each corpus."""
    files = {split: folder / f"{split}.spacy" for split in ("train", "dev", "test")}
    return {k: list(DocBin().from_disk(path).get_docs(VOCAB)) for k, path in files.items()}


@pytest.mark.parametrize(
    ("span", "problem"),
    [
        ((8, 99, "T"), "span 8-99 T {}: out of range, the text has 52 characters."),
        ((-1, 2, "T"), "span -1-2 T {}: out of range, the text has 52 characters."),
        ((8, 7, "T"), "span 8-7 T {}: out of range, the text has 52 characters."),
        ((8, 8, "T"), "span 8-8 T '': empty."),
        ((8, 14, "X"), "span 8-14 X 'Python': unknown label, expected one of S, T."),
        ((8, 14, ""), "span 8-14  'Python': unknown label, expected one of S, T."),
        ((7, 14, "T"), "span 7-14 T ' Python': begins or ends in white space, leave it out."),
        ((8, 15, "T"), "span 8-15 T 'Python ': begins or ends in white space, leave it out."),
        ((19, 30, "T"), "span 19-30 T 'SQL.\\nStrong': crosses a line break, cut it there."),
        (
            (8, 13, "T"),
            "span 8-13 T 'Pytho' does not fit the tokens ['Python']: move its borders to theirs.",
        ),
    ],
)
def test_unfit_span(tmp_path: Path, span: tuple[int, int, str], problem: str) -> None:
    bad = post(TEXT, (3, 7, "S"), span, id="bad")
    path = write_posts(tmp_path / "posts.jsonl", [FIT[0], bad, FIT[2]])
    output = tmp_path / "corpus"
    surface = repr(TEXT[max(span[0], 0) : max(span[1], 0)])
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        convert([path], output, labels=["TECHNOLOGY", "SOFT", "T", "S"])
    expected = problem.format(surface).replace("one of S, T", "one of S, SOFT, T, TECHNOLOGY")
    assert str(raised.value) == f"{path}:2: {expected}"
    assert not output.exists()


def test_overlap_is_refused_and_touching_is_not() -> None:
    spans = [(8, 14, "T"), (13, 18, "T"), (18, 19, "S")]
    with pytest.raises(ValueError, match=r"^f:1: span 13-18 T 'n and': overlaps the span before"):
        check_posts([Post(TEXT, spans, {"id": "a"}, "f:1")])
    check_posts([Post("C++C#", [(0, 3, "T"), (3, 5, "T")], {"id": "a"}, "f:1")])
    with pytest.raises(ValueError, match=r"span 9-10 S 'y': overlaps the span before it\.$"):
        check_posts([Post(TEXT, [(8, 14, "T"), (9, 10, "S"), (19, 22, "T")], {"id": "a"}, "f:1")])


def test_carriage_return_within_a_span_is_refused() -> None:
    with pytest.raises(ValueError, match="crosses a line break"):
        check_posts([Post("SQL\rData", [(0, 8, "T")], {"id": "a"})])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": ', "invalid JSON at column 10 (Expecting value)."),
        (b'{"text": "\xe9"}', "byte 11 is not UTF-8, save the file as UTF-8."),
        (b'{"text": "\\ud83d"}', "half of a surrogate pair is no text, remove it."),
        (b"[1]", 'expected an object with "text", see assets/README.md for the layout.'),
        (b'{"text": 1}', 'expected an object with "text", see assets/README.md for the layout.'),
        (b'{"text": "a", "meta": [1]}', 'expected "meta" as an object, found [1].'),
        (b'{"text": "a", "spans": 1}', 'expected "spans" as a list, found 1.'),
        (
            b'{"text": "a", "spans": [{"start": 0, "end": 1}]}',
            'expected a span with "start", "end", "label", found {\'start\': 0, \'end\': 1}.',
        ),
        (
            b'{"text": "a", "spans": [{"start": 0.0, "end": 1, "label": "T"}]}',
            "expected whole numbers and a label in a span, "
            "found {'start': 0.0, 'end': 1, 'label': 'T'}.",
        ),
    ],
)
def test_unfit_line(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        read_posts(path)
    assert str(raised.value) == f"{path}:3: {problem}"


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    path = write_posts(tmp_path / "a.jsonl", [post(TEXT, (8, 8, "T"), (8, 99, "T"), id="x")])
    other = write_posts(tmp_path / "b.jsonl", [post("a"), post("SQL", (1, 1, "T"), id="x")])
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        convert([tmp_path], tmp_path / "corpus")
    lines = str(raised.value).splitlines()
    assert [line.split(" ", 3)[:3] for line in lines] == [
        [f"{path}:1:", "span", "8-8"],
        [f"{path}:1:", "span", "8-99"],
        [f"{other}:2:", "id", "'x'"],
        [f"{other}:2:", "span", "1-1"],
    ]
    assert lines[2] == f"{other}:2: id 'x' stands at {path}:1 already, rename one."
    many = write_posts(tmp_path / "c.jsonl", [post("a", (0, 0, "T"), id=i) for i in range(35)])
    with pytest.raises(ValueError, match=r"\.\.\. and 5 more\.$"):
        convert([many], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_missing_and_empty_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ValueError, match=f"^{path}: no annotated posts here, name a JSONL"):
            convert([path], tmp_path / "corpus")
    for content in ("", "\n \n"):
        path = tmp_path / "empty.jsonl"
        path.write_text(content)
        with pytest.raises(ValueError, match=f"^{path}: no post in this file"):
            convert([path], tmp_path / "corpus")
    write_posts(tmp_path / "empty.jsonl", FIT[:1])
    with pytest.raises(ValueError, match="No post fell into train, dev: 1 posts are too few"):
        convert([tmp_path], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_command_refuses_in_one_line(tmp_path: Path) -> None:
    path = write_posts(tmp_path / "posts.jsonl", [*FIT, post("SQL", (0, 3, "NO"), id="x")])
    app = Typer()
    app.command()(convert_cli)
    arguments = [str(path), "--output", str(tmp_path / "corpus"), "--labels", "TECHNOLOGY,SOFT"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    problem = "span 0-3 NO 'SQL': unknown label, expected one of SOFT, TECHNOLOGY."
    assert str(done.exception) == f"{path}:4: {problem}"
    assert not (tmp_path / "corpus").exists()


def test_command_writes_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    posts = [*FIT, *(post(f"word{i} of C++ 🙂", (9, 12, f"L{i}"), id=i, b=1) for i in range(9))]
    path = write_posts(tmp_path / "posts.jsonl", posts)
    here, there = tmp_path / "here", tmp_path / "there"
    arguments = [str(path), "--output", str(there), "--report", str(there / "corpus.json")]
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # not that of this process
    done = subprocess.run(
        [sys.executable, "-m", "scripts.convert", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of the test lines also stand in train." in done.stdout
    counts = convert([path], here)
    assert json.loads((there / "corpus.json").read_text()) == counts
    (there / "corpus.json").unlink()
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (here, there))
    assert first == second
    assert set(first) == {"train.spacy", "dev.spacy", "test.spacy"}


def test_posts_survive_with_their_offsets(tmp_path: Path) -> None:
    texts = ["\ufeff🙂🙂 Café, C++/C#\r\n• .NET\n\n", "naïve  Bayes\u00a0\u200d in\t日本語 R.\r\n"]
    surfaces = [["Café", "C++", "C#", ".NET"], ["naïve  Bayes", "日本語", "R"]]
    posts = list(FIT)
    for i, (text, found) in enumerate(zip(texts, surfaces, strict=True)):
        spans = [(text.index(s), text.index(s) + len(s), "T") for s in found]
        posts.append(post(text, *spans, id=f"odd{i}", role="Café", n={"a": None}))
    convert([write_posts(tmp_path / "posts.jsonl", posts)], tmp_path)
    parts = read_corpora(tmp_path)
    docs = {doc.user_data["meta"]["id"]: doc for part in parts.values() for doc in part}
    assert set(docs) == {p["meta"]["id"] for p in posts}
    for each in posts:
        doc = docs[each["meta"]["id"]]
        assert doc.text == each["text"]
        assert [(e.start_char, e.end_char, e.label_) for e in doc.ents] == gold(each)
        assert doc.user_data["meta"] == each["meta"]
    assert {side: [d.user_data["meta"]["id"] for d in parts[side]] for side in ("dev", "test")} == {
        "dev": ["post7"],
        "test": ["post1"],
    }


@pytest.mark.parametrize("glue", ["\n", "\r\n", "\n\n"])
def test_files_of_any_editor(tmp_path: Path, glue: str) -> None:
    lines = glue.join(json.dumps(each, ensure_ascii=False) for each in FIT)
    (tmp_path / "posts.jsonl").write_bytes(("\ufeff" + lines).encode())
    posts = read_posts(tmp_path / "posts.jsonl")
    assert [each.text for each in posts] == [each["text"] for each in FIT]
    assert [each.spans for each in posts] == [gold(each) for each in FIT]


def test_folders_are_read_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        write_posts(tmp_path / name, FIT)
    assert [path.name for path in find_files([tmp_path, tmp_path / "c.txt"])] == [
        "a.jsonl",
        "b.jsonl",
        "c.txt",
    ]


def as_posts(texts: dict[str, str], **groups: Any) -> list[Post]:
    return [
        Post(text, [], {"id": name, **({"group": groups[name]} if name in groups else {})}, name)
        for name, text in texts.items()
    ]


def unlike(names: list[str]) -> list[Post]:
    """Posts that share nothing."""
    return as_posts({name: "a{0} b{0} c{0}".format(name.encode().hex()) for name in names})


def test_sides_are_fixed_by_the_ids() -> None:
    names = ["post0", "post1", "post2", "post7", "acme-1", "Café 🙂", "a.jsonl:1"]
    sides = ["train", "test", "train", "dev", "dev", "train", "dev"]
    assert split_posts(unlike(names), 42) == sides
    sides = ["dev", "train", "train", "train", "train", "train", "dev"]
    assert split_posts(unlike(names), 7) == sides


def test_shares() -> None:
    for seed in (0, 42):
        sides = split_posts(unlike([f"id{i}" for i in range(5000)]), seed)
        shares = [sides.count(side) / len(sides) for side in ("train", "dev", "test")]
        # Three standard deviations of a share of 0.7 in 5,000 are 0.0194, of 0.15 0.0151.
        assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=8), unique=True, max_size=12), st.integers(0, 12), st.integers())
def test_a_new_post_moves_no_other(names: list[str], n: int, seed: int) -> None:
    sides = split_posts(unlike(names), seed)
    assert split_posts(unlike(names[:n]), seed) == sides[:n]
    # Without likeness the order does not matter either.
    assert split_posts(unlike(names[::-1]), seed) == sides[::-1]


LIKE = "we need python and sql for our data team in the north"


def test_near_duplicates_follow_the_first() -> None:
    # Ten runs of three words are common to all of them, and none has more than thirteen.
    for names in (["post7", "post2"], ["post2", "post7"], ["post1", "post3", "post7"]):
        texts = [LIKE + end for end in ("", " or", " OR south", " or south now")]
        posts = as_posts(dict(zip(names, texts, strict=False)))
        alone = split_posts(unlike(names), 42)
        assert len(set(alone)) > 1
        assert split_posts(posts, 42) == [alone[0]] * len(names)
        assert not any(each.problems for each in posts)


@pytest.mark.parametrize(
    ("second", "together"),
    [
        # Runs of three words that are shared, of those in either: 2 of 6, 3 of 5, 2 of 4, ...
        ("c d e f x y", False),
        ("a b c d e x", True),
        ("a b c d", True),
        ("A, B - C: d E\n(x)", True),
        ("a b c", False),
        ("b c d e g", False),
    ],
)
def test_what_counts_as_near_duplicate(second: str, together: bool) -> None:
    posts = as_posts({"post7": "a b c d e f", "post2": second})
    assert split_posts(posts, 42) == ["dev", "dev" if together else "train"]


def test_groups() -> None:
    texts = {name: f"{name}a {name}b {name}c" for name in ("post2", "post3", "post4")}
    # A group's name counts like an id: post7 is dev.
    grouped = as_posts(texts, post2="post7", post4="post7")
    assert split_posts(grouped, 42) == ["dev", "train", "dev"]
    # null is no group.
    unset = as_posts(texts | {"post1": "one"}, post2=None, post1=None)
    assert split_posts(unset, 42) == ["train", "train", "train", "test"]
    # A near-duplicate joins the group of the first.
    follows = as_posts({"post2": LIKE, "post3": LIKE + " or"}, post2="post7")
    assert split_posts(follows, 42) == ["dev", "dev"]


def test_a_bridge_between_two_sides_is_refused() -> None:
    left, right = "a b c d e f g h", "p q r s t u v w"
    # The third shares half of its runs with each of the others, which share none.
    texts = {"post7": f"{left} m n", "post2": f"m n {right}", "post3": f"{left} m n {right}"}
    posts = as_posts(texts)
    split_posts(posts, 42)
    assert [each.problems for each in posts] == [
        [],
        [],
        [
            "near-duplicate of post2 (train), yet its group 'post7' is in dev: "
            'give both one "group" in "meta", or drop one.'
        ],
    ]
    for each in posts:
        each.problems.clear()
        each.meta["group"] = "g"
    assert len(set(split_posts(posts, 42))) == 1
    assert not any(each.problems for each in posts)


def test_a_bridge_is_named_with_its_line(tmp_path: Path) -> None:
    posts = [post(LIKE, id="post7", group="post7"), post(LIKE, id="post2", group="post2")]
    path = write_posts(tmp_path / "posts.jsonl", [*posts, FIT[0]])
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        convert([path], tmp_path / "corpus")
    assert str(raised.value) == (
        f"{path}:2: near-duplicate of {path}:1 (dev), yet its group 'post2' is in train: "
        'give both one "group" in "meta", or drop one.'
    )
    assert not (tmp_path / "corpus").exists()


def test_counts(tmp_path: Path, encoder: Path) -> None:
    posts = [
        post("Apply now!\nSQL, R", (11, 14, "T"), (16, 17, "T"), id="post2"),
        post("Lead\n" * 100, (0, 4, "S"), id="post3"),
        post("Excel", (0, 5, "T"), id="post7"),
        # Three of these five lines also stand in train, but for case and white space.
        post("APPLY NOW!\n\nJava\n lead \r\nSpark\nlead", id="post1"),
    ]
    path = write_posts(tmp_path / "posts.jsonl", posts)
    counts = convert([path], tmp_path / "corpus", encoder=encoder)
    assert counts == {
        "splits": {
            "train": {"posts": 2, "tokens": 106, "spans": 3, "S": 1, "T": 2, "windows": 3},
            "dev": {"posts": 1, "tokens": 1, "spans": 1, "T": 1, "windows": 1},
            "test": {"posts": 1, "tokens": 7, "spans": 0, "windows": 1},
        },
        "test_lines_in_train": 0.6,
    }


def test_counted_windows_are_those_of_the_pipeline(tmp_path: Path, encoder: Path) -> None:
    words = zip(IDS, ("Excel", "Java", "Spark"), strict=True)
    posts = [post(f"{word} we need.\n" * 90, id=name) for name, word in words]
    path = write_posts(tmp_path / "posts.jsonl", posts)
    counts = convert([path], tmp_path / "corpus", encoder=encoder)
    # Four pieces a line and room for 62 (the encoder reads 64): fifteen lines a window.
    assert [part["windows"] for part in counts["splits"].values()] == [6, 6, 6]
