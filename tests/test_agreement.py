"""`agreement`: strict F1 per label and kappa, as computed by hand."""

import json
from pathlib import Path

import pytest
import typer
from conftest import write_posts
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from scripts.agreement import agreement, agreement_cli, kappa
from scripts.posts import Post

app = typer.Typer()
app.command()(agreement_cli)
TEXT = "Python SQL teamwork and more"
FIRST = [(0, 6, "TECHNOLOGY"), (7, 10, "TECHNOLOGY"), (11, 19, "SOFT")]
SECOND = [(0, 6, "TECHNOLOGY"), (7, 10, "TECHNICAL")]


def make(name: str, spans: list[tuple[int, int, str]], **meta: str) -> Post:
    return Post(TEXT, spans, {"id": name} | meta, f"x.jsonl:{name}")


def test_figures_by_hand() -> None:
    figures = agreement([make("1", FIRST), make("2", FIRST)], [make("1", SECOND)])
    assert figures["posts"] == 1
    assert figures["spans"] == [3, 2]
    assert figures["f"] == 0.4
    assert figures["f_per_type"] == {"SOFT": 0, "TECHNICAL": 0, "TECHNOLOGY": 0.6667}
    # Five words: three agree (Python, and, more); by chance 2/5*1/5 + 2/5*3/5 of them.
    assert figures["kappa"] == round((3 / 5 - 8 / 25) / (1 - 8 / 25), 4)


def test_groups_come_from_the_first_annotator() -> None:
    first = [make("1", FIRST, round="1"), make("2", FIRST, round="2")]
    figures = agreement(first, [make("1", FIRST), make("2", SECOND)])
    assert {name: row["f"] for name, row in figures["by"].items()} == {"1": 1.0, "2": 0.4}
    assert figures["f"] == round(2 * 4 / 11, 4)


@settings(deadline=None)
@given(st.lists(st.sampled_from(FIRST + SECOND[1:]), unique=True, max_size=3))
def test_agreement_with_oneself_is_full_and_symmetric(spans: list) -> None:
    spans = [span for span in spans if span != SECOND[1] or FIRST[1] not in spans]
    same = agreement([make("1", spans)], [make("1", spans)])
    assert same["kappa"] == 1.0
    assert same["f"] == (1.0 if spans else 0.0)
    one = agreement([make("1", FIRST)], [make("1", spans)])
    other = agreement([make("1", spans)], [make("1", FIRST)])
    assert (one["f"], one["kappa"]) == (other["f"], other["kappa"])


def test_kappa_is_zero_where_one_marks_nothing() -> None:
    assert kappa([(make("1", FIRST), make("1", []))]) == 0.0


def test_other_texts_and_unknown_posts_are_named() -> None:
    other = Post("Other text", [], {"id": "1"}, "y.jsonl:1")
    with pytest.raises(ValueError, match=r"y\.jsonl:1: '1' has another text than in x\.jsonl:1"):
        agreement([make("1", FIRST)], [other])
    with pytest.raises(ValueError, match="'3' is not among the first"):
        agreement([make("1", FIRST)], [make("3", [])])


def test_command_prints_and_writes_figures(tmp_path: Path) -> None:
    records = [
        {
            "text": TEXT,
            "spans": [{"start": a, "end": b, "label": x} for a, b, x in spans],
            "meta": {"id": "1"},
        }
        for spans in (FIRST, SECOND)
    ]
    first, second = (
        write_posts(tmp_path / f"{i}.jsonl", [record]) for i, record in enumerate(records)
    )
    output = tmp_path / "agreement.json"
    result = CliRunner().invoke(app, [str(first), str(second), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "0.400" in result.output
    assert json.loads(output.read_text(encoding="utf-8"))["f"] == 0.4
    assert CliRunner().invoke(app, [str(first), str(tmp_path / "none")]).exit_code == 1
