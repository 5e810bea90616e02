"""SkillSpan's files, as published, become corpora of a layer and are scored apart from train."""

import json
from pathlib import Path

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import DocBin
from typer.testing import CliRunner

from scripts import skillspan
from scripts.skillspan import app, evaluate, read_skillspan

ROWS = [
    (1, "We need Python and SQL .", "OOBOBO", "OOOOOO"),
    (1, "You can work in a team", "OOOOOO", "OOBIII"),
    (2, "Apply now , Java ( 8 )", "OOOBIIO", "OOOOOOO"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three sentences of two posts, in the published layout."""
    path = tmp_path / "part.json"
    lines = (
        {"idx": i, "tokens": words.split(), "tags_skill": [*skill], "tags_knowledge": [*knowledge]}
        | {"source": "tech"}
        for i, words, knowledge, skill in ROWS
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_sentences_of_a_post_become_its_lines(source: Path) -> None:
    first, second = read_skillspan(source, "knowledge")
    assert first.text == "We need Python and SQL .\nYou can work in a team"
    assert [first.text[a:b] for a, b, _ in first.spans] == ["Python", "SQL"]
    assert [(second.text[a:b], label) for a, b, label in second.spans] == [
        ("Java ( 8", "KNOWLEDGE")
    ]
    first, _ = read_skillspan(source, "skill")
    assert [(first.text[a:b], label) for a, b, label in first.spans] == [
        ("work in a team", "SKILL")
    ]


def test_mistakes_are_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown layer 'soft'"):
        read_skillspan(source, "soft")
    with pytest.raises(ValueError, match=r"none\.json: not found"):
        read_skillspan(tmp_path / "none.json", "skill")
    with pytest.raises(ValueError, match=r"dev\.json: SHA-256 .* not the published file"):
        read_skillspan(source.rename(tmp_path / "dev.json"), "skill")
    (tmp_path / "bad.json").write_text('{"idx": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.json:1: no sentence of SkillSpan"):
        read_skillspan(tmp_path / "bad.json", "skill")
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "none.json"), str(tmp_path)])
    assert result.exit_code == 1


def test_convert_holds_out_whole_posts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skillspan, "HELD_OUT", 2)
    arguments = ["convert", str(source), str(tmp_path / "out"), "--layer", "knowledge"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    vocab = spacy.blank("en").vocab
    found = {
        side: [
            [ent.text for ent in doc.ents]
            for doc in DocBin().from_disk(tmp_path / "out" / f"{side}.spacy").get_docs(vocab)
        ]
        for side in ("train", "dev")
    }
    assert found == {"dev": [["Python", "SQL"]], "train": [["Java ( 8"]]}


def test_sentences_that_stand_in_train_are_scored_apart(source: Path) -> None:
    posts = read_skillspan(source, "knowledge")
    nlp: Language = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(
        [{"label": "KNOWLEDGE", "pattern": word} for word in ("Python", "now")]
    )
    figures = evaluate(nlp, posts, posts[:1])
    assert (figures["sentences"], figures["sentences_in_train"]) == (3, 2)
    assert figures["all"]["ents_f"] == 0.4
    assert (figures["new"]["ents_f"], figures["new"]["spans"]) == (0, 1)
