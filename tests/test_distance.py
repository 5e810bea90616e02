"""`distance`: figures by hand, and copied or repeated text is found and named."""

import json
from pathlib import Path

import typer
from conftest import make_post, write_posts
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from scripts.distance import common_runs, compare, describe, distance_cli, repeated_sentences
from scripts.posts import Post

app = typer.Typer()
app.command()(distance_cli)
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
FORMULA = "we are an equal opportunity employer and hire every one without regard to race or creed"


def make(name: str, text: str, spans: list | None = None) -> Post:
    return Post(text, spans or [], {"id": name})


def test_figures_by_hand() -> None:
    posts = [make("a", "Use SQL\n\nBENEFITS\nfour more words here", [(4, 7, "TECHNOLOGY")])]
    figures = describe(posts)
    assert figures["words"] == 7
    assert figures["lines a post, mean"] == 3
    assert figures["words a line, median"] == 2
    assert figures["lines in capitals, %"] == 33.3
    assert figures["spans in 100 words"] == round(100 / 7, 1)
    assert figures["words in spans, %"] == round(100 / 7, 1)
    assert figures["lines without a span, %"] == 66.7
    assert figures["posts with near-duplicate, %"] == 0
    assert describe(posts * 2)["posts with near-duplicate, %"] == 100
    sides = {"ours": {}, "theirs": {}}
    compare(sides, [make("a", "a b a b a")], [make("b", "A c d")])
    assert sides["ours"]["words the other side lacks, %"] == 40
    assert sides["theirs"]["words the other side lacks, %"] == 66.7
    assert sides["ours"]["distinct runs of 1, % of 3 words"] == 66.7


def test_repeated_sentences_but_no_formulas_and_no_short_ones() -> None:
    sentence = "This is one sentence that has more than eight words."
    texts = [f"{sentence} {FORMULA}.\nShort one.", f"• {sentence.upper()}\nShort one.\n{FORMULA}"]
    found = repeated_sentences([make(str(i), text) for i, text in enumerate(texts)])
    assert [(text, ids) for text, ids in found] == [(sentence, ["0", "1"])]


def test_common_runs_are_whole_and_formulas_aside() -> None:
    ours = [make("a", f"Intro here. And {LONG} and out.\n{FORMULA}"), make("b", LONG[:40])]
    runs = common_runs(ours, [make("x", f"Other start {LONG}, other end.\n{FORMULA}")])
    assert runs == [("a", LONG)]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=12, max_size=60), st.data())
def test_every_run_of_twelve_words_is_found(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 12))
    theirs = [make("x", " ".join(words[start : start + 12]))]
    runs = common_runs([make("a", " ".join(words))], theirs)
    assert any(" ".join(words[start : start + 12]) in run for _, run in runs)
    assert all(run in " ".join(words) for _, run in runs)


def test_command_names_what_passes_a_limit(tmp_path: Path) -> None:
    ours = write_posts(
        tmp_path / "ours.jsonl",
        [make_post(f"{LONG}\nno {i} more of it", [], [], f"p{i}") for i in range(4)],
    )
    theirs = write_posts(tmp_path / "theirs.jsonl", [make_post(LONG, [], [], "x")])
    output = tmp_path / "distance.json"
    arguments = [str(ours), str(theirs), "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "p0 has a run of theirs" in result.output
    assert "in 4 posts (p0, p1, p2, p3)" in result.output
    assert result.output.count("OVER") == 3
    written = output.read_text(encoding="utf-8")
    assert [*json.loads(written)] == ["ours", "theirs", "limits"]
    assert "eleven" not in written
    assert CliRunner().invoke(app, [*arguments, "--strict"]).exit_code == 1
    sound = CliRunner().invoke(app, [str(theirs), str(tmp_path / "none.jsonl")])
    assert sound.exit_code == 1
