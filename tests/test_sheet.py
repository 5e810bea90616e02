"""`sheet` writes counts into the data sheet; the committed sheet is up to date."""

import re
from pathlib import Path

import typer
from conftest import POSTS, ROOT, make_post, write_posts
from typer.testing import CliRunner

from scripts.posts import read_fit
from scripts.sheet import describe, sheet_cli

app = typer.Typer()
app.command()(sheet_cli)
SHEET = "# Sheet\n\n<!-- counts -->\nold\n<!-- /counts -->\n\nEnd.\n"


def with_meta(record: dict, **meta: object) -> dict:
    return record | {"meta": record["meta"] | meta}


def test_counts_by_round_split_and_cell(tmp_path: Path) -> None:
    records = [
        with_meta(POSTS[0], round="1", country="Ireland", mess=["typos", "emoji"]),
        with_meta(POSTS[1], round="2", country="Ireland", mess=["typos"]),
        with_meta(make_post("no skill here", [], [], "none"), round="2"),
    ]
    path = write_posts(tmp_path / "posts.jsonl", records)
    second = write_posts(tmp_path / "second.jsonl", records[:1])
    readme = tmp_path / "README.md"
    readme.write_text(SHEET, encoding="utf-8")
    arguments = [str(path), "--second", str(second), "--readme", str(readme)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Sheet\n\n<!-- counts -->\n| round |")
    assert text.endswith("|\n<!-- /counts -->\n\nEnd.\n")
    assert "old" not in text
    assert "| round | posts | words | spans | SOFT | TECHNOLOGY |" in text
    assert "| 1 | 1 | 8 | 3 | 1 | 2 |" in text
    assert "| 2 | 2 | 12 | 2 | 0 | 2 |" in text
    assert "| all | 3 | 20 | 5 | 1 | 4 |" in text
    assert "| country | Ireland 2, not recorded 1 |" in text
    assert "| mess | typos 2, emoji 1, not recorded 1 |" in text
    assert "| words | 0 to 259 3, 260 to 349 0" in text
    assert "| 1 | 1 | 3/3 | 1.000 | 1.000 | 1.000 | 1.000 |" in text
    before = readme.read_bytes()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert readme.read_bytes() == before


def test_a_sheet_without_marks_is_left_alone(tmp_path: Path) -> None:
    path = write_posts(tmp_path / "posts.jsonl", POSTS)
    readme = tmp_path / "README.md"
    readme.write_text("# Sheet\n", encoding="utf-8")
    result = CliRunner().invoke(app, [str(path), "--readme", str(readme)])
    assert result.exit_code == 1
    assert readme.read_text(encoding="utf-8") == "# Sheet\n"


def test_committed_sheet_is_up_to_date() -> None:
    posts, second = (read_fit(ROOT / "assets" / name) for name in ("posts", "second"))
    counts = describe(posts, second, 42)
    text = (ROOT / "assets" / "README.md").read_text(encoding="utf-8")
    region = re.search(r"<!-- counts -->\n(.*)\n<!-- /counts -->", text, re.DOTALL)
    assert region[1] == "\n".join(counts)
