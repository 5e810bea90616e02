"""`lint` lists wordings treated unevenly, with their places, and spans that break a rule."""

from pathlib import Path

import pytest
import typer
from conftest import make_post, write_posts
from typer.testing import CliRunner

from scripts.lint import find_faults, find_surfaces, lint_cli
from scripts.posts import Post

app = typer.Typer()
app.command()(lint_cli)

POSTS = [
    make_post("Use SQL and Data  Pipelines daily.\nGo to work.", ["SQL"], [], "a"),
    make_post("sql first, data pipelines later", [], ["data pipelines"], "b"),
    make_post("SQL, PostgreSQL, Go", ["PostgreSQL", "Go"], ["SQL"], "c"),
]


def counts(posts: list[Post]) -> dict[str, dict[str, int]]:
    return {
        name: {how: len(places) for how, places in surface.places.items()}
        for name, surface in find_surfaces(posts).items()
    }


def to_posts(records: list[dict]) -> list[Post]:
    return [
        Post(
            record["text"],
            [(span["start"], span["end"], span["label"]) for span in record["spans"]],
            record["meta"],
            f"x.jsonl:{i}",
        )
        for i, record in enumerate(records, start=1)
    ]


def test_counts_marked_and_unmarked_places_by_words() -> None:
    assert counts(to_posts(POSTS)) == {
        "sql": {"TECHNOLOGY": 1, "unmarked": 1, "SOFT": 1},
        # Case and doubled blanks do not matter; a part of a word is no place.
        "data pipelines": {"SOFT": 1},
        "postgresql": {"TECHNOLOGY": 1},
        "go": {"TECHNOLOGY": 1, "unmarked": 1},
    }


def test_an_unmarked_place_is_the_longest_and_touches_no_span() -> None:
    post = Post(
        "data analysis; analysis; data analysis; big data analysis",
        [(0, 13, "TECHNICAL"), (15, 23, "TECHNICAL"), (40, 57, "TECHNICAL")],
        {"id": "a"},
    )
    assert counts([post]) == {
        "data analysis": {"TECHNICAL": 1, "unmarked": 1},
        "analysis": {"TECHNICAL": 1},
        "big data analysis": {"TECHNICAL": 1},
    }


def test_lists_places_of_the_rarer_treatment(tmp_path: Path) -> None:
    path = write_posts(tmp_path / "posts.jsonl", POSTS)
    result = CliRunner().invoke(app, [str(path)])
    assert result.exit_code == 0, result.output
    assert f"unmarked: {path}:2: b: >sql< first" in result.output
    assert f"{path}:3: c: >SQL<, PostgreSQL, Go" in result.output
    assert "postgresql" not in result.output
    assert "2 of 4 wordings treated unevenly, 0 broken rules." in result.output
    many = CliRunner().invoke(app, [str(path), "--least", "2"]).output
    assert "'sql'" in many
    assert "'go'" not in many
    one = CliRunner().invoke(app, [str(path), "--surface", "PostgreSQL"]).output
    assert "c: SQL, >PostgreSQL<, Go" in one
    missing = CliRunner().invoke(app, [str(path), "--surface", "Perl"])
    assert missing.exit_code == 1


@pytest.mark.parametrize(
    ("surface", "fault"),
    [
        ("Python,", "punctuation"),
        ("(SQL", "punctuation"),
        ("the cloud", "article"),
        ("Tools", "generic word alone"),
        ("communication skills", "last word only says skill"),
        ("strong SQL", "word of level"),
        ("data\npipelines", "line break"),
    ],
)
def test_names_broken_rules(surface: str, fault: str) -> None:
    post = Post(f"x {surface}", [(2, 2 + len(surface), "TECHNICAL")], {"id": "a"}, "x.jsonl:1")
    (found,) = find_faults(post)
    assert found.startswith("x.jsonl:1: a: ")
    assert fault in found


@pytest.mark.parametrize("surface", ["C++", "C#", ".NET", "advanced analytics", "A/B testing"])
def test_sound_spans_break_no_rule(surface: str) -> None:
    assert [*find_faults(Post(surface, [(0, len(surface), "TECHNICAL")], {"id": "a"}))] == []


def test_strict_fails_on_a_broken_rule_only(tmp_path: Path) -> None:
    sound = write_posts(tmp_path / "sound.jsonl", POSTS)
    assert CliRunner().invoke(app, [str(sound), "--strict"]).exit_code == 0
    broken = write_posts(
        tmp_path / "broken.jsonl", [make_post("strong SQL", ["strong SQL"], [], "a")]
    )
    assert CliRunner().invoke(app, [str(broken), "--strict"]).exit_code == 1
    assert CliRunner().invoke(app, [str(broken)]).exit_code == 0


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "none.jsonl")])
    assert result.exit_code == 1
    assert "none.jsonl" in str(result.exception) + result.output
