"""The README: its code runs, its figures are those of metrics/."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import spacy
from conftest import ROOT
from spacy.language import Language

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["test", "real_minilm", "test_mpnet", "real_mpnet", "test_mpnet_best", "real_mpnet_best"]


def read_metrics(name: str) -> dict:
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def test_code_runs(trained: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.to_disk(tmp_path / "model")
    load = spacy.load
    asked = []

    def load_small(name: str) -> Language:
        asked.append(name)
        return load(tmp_path / "model")

    monkeypatch.setattr(spacy, "load", load_small)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block, {})
        if "print" in block:
            assert "Python TECHNOLOGY" in printed.getvalue()
    assert asked == ["en_skill_ner"] * len(blocks) != []


@pytest.mark.parametrize("name", FILES)
def test_table_quotes_metrics(name: str) -> None:
    metrics = read_metrics(name)
    figures = [metrics[key] for key in ("ents_p", "ents_r", "ents_f")]
    low, high, accuracy = (metrics[key] for key in ("ents_f_low", "ents_f_high", "accuracy"))
    cells = [*(f"{value:.4f}" for value in figures), f"{low:.3f} to {high:.3f}", f"{accuracy:.4f}"]
    assert f"| {' | '.join(cells)} |" in README


@pytest.mark.parametrize("name", ["train", "train_mpnet", "train_mpnet_best"])
def test_results_tables_quote_metrics(name: str) -> None:
    for row in read_metrics(name)["rows"]:
        assert f"| {' | '.join(str(value) for value in row.values())} |" in README


def test_ci_runs_the_readmes_commands() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for mark in ("set-up", "test"):
        assert len(re.findall(rf"^<!-- {mark} -->$", README, re.MULTILINE)) == 1
        assert f"<!-- {mark} -->" in ci
