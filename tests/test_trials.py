"""`trials` trains each recipe once for each seed, keeps what is done, and sums it up."""

import json
from pathlib import Path

import pytest
import typer
from conftest import POSTS, write_posts
from test_train import corpus  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from scripts.trials import read_trials, summarise, trials_cli

app = typer.Typer()
app.command()(trials_cli)
TRIALS = """
encoder = "{encoder}"
seeds = [1, 2]

[[trial]]
name = "half"
share = 0.5
settings = {{ "training.max_steps" = 2 }}

[[trial]]
name = "all"
seeds = [1]
settings = {{ "training.max_steps" = 2, "training.optimizer.learn_rate.initial_rate" = 0.003 }}
"""


def test_each_trial_and_seed_is_run_once(corpus: Path, encoder: Path, tmp_path: Path) -> None:  # noqa: F811
    trials, output = tmp_path / "trials.toml", tmp_path / "trials.jsonl"
    trials.write_text(TRIALS.format(encoder=encoder), encoding="utf-8")
    arguments = [str(trials), "--work", str(tmp_path / "work"), "--output", str(output)]
    for part in ("train", "dev"):
        arguments += [f"--{part}", str(corpus / f"{part}.spacy")]
    arguments += ["--real", str(write_posts(tmp_path / "real.jsonl", POSTS))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["trial"], row["seed"]) for row in rows] == [("half", 1), ("half", 2), ("all", 1)]
    assert rows[0]["posts"] == rows[1]["posts"] == round(rows[2]["posts"] / 2)
    assert rows[0]["epochs"][0]["step"] == 2
    assert rows[0]["epochs"] != rows[1]["epochs"]
    assert all(0 <= row[part]["ents_f"] <= 1 for row in rows for part in ("dev", "real"))
    assert not (tmp_path / "work").exists()
    before = output.read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    assert output.read_bytes() == before
    assert "seed 2" not in again.output


def test_rounds_choose_posts(corpus: Path, encoder: Path, tmp_path: Path) -> None:  # noqa: F811
    trials = tmp_path / "trials.toml"
    text = f'encoder = "{encoder}"\n[[trial]]\nname = "none"\nrounds = ["9"]\n'
    trials.write_text(text, encoding="utf-8")
    arguments = [str(trials), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "o")]
    for part in ("train", "dev"):
        arguments += [f"--{part}", str(corpus / f"{part}.spacy")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[trial", "invalid TOML"),
        ('encoder = "e"\n[[trial]]\nseeds = [1]', "trial 1"),
        ('encoder = "e"\n[[trial]]\nname = "a"\nlearn_rate = 1', "learn_rate"),
        ('encoder = "e"\n[[trial]]\nname = "a"\n[[trial]]\nname = "a"', "two trials"),
    ],
)
def test_a_faulty_list_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_trials(path)
    assert "trials.toml" in str(error.value)


def test_summary_has_means_and_ranges() -> None:
    rows = [
        {"trial": "a", "seed": seed, "posts": 7, "seconds": 60 * seed}
        | {part: {"ents_f": f, "ents_f_unseen": f / 2} for part in parts}
        for seed, f, parts in ((1, 0.5, ("dev", "real")), (3, 0.7, ("dev",)))
    ]
    cells = ["a", "7", "2", "0.600 (0.500 to 0.700)", "0.300", "0.500", "0.250", "2.0"]
    assert [*summarise(rows)] == [cells]
