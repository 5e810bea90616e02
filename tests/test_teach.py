"""A teacher's labels: written by the command, read beside the annotation, learned from."""

from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import POSTS, make_examples, make_nlp, write_posts
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from thinc.api import Adam
from typer.testing import CliRunner

from scripts.posts import Post
from scripts.teach import create_taught_corpus, teach, teach_cli

app = typer.Typer()
app.command()(teach_cli)
PLAIN = [{"text": "Python and SQL\nteam work", "meta": {"id": "plain0"}}]


def write_corpus(path: Path, nlp: Language, posts: list[dict]) -> None:
    docs = [example.reference for example in make_examples(nlp, posts)]
    for doc, post in zip(docs, posts, strict=True):
        doc.user_data["meta"] = post["meta"]
    DocBin(docs=docs, store_user_data=True).to_disk(path)


def arguments(path: Path) -> list[str]:
    named = {"corpus": "train.spacy", "plain": "plain.jsonl", "output": "teacher.npz"}
    return [str(path / "model"), *(f"--{key}={path / name}" for key, name in named.items())]


def read(path: Path, nlp: Language) -> list[Example]:
    files = [path / name for name in ("train.spacy", "teacher.npz", "plain.jsonl")]
    return [*create_taught_corpus(*files)(nlp)]


@pytest.fixture
def folder(trained: Language, tmp_path: Path) -> Path:
    """A teacher, annotated and plain posts, and the labels that the command makes of them."""
    trained.to_disk(tmp_path / "model")
    write_corpus(tmp_path / "train.spacy", trained, POSTS)
    write_posts(tmp_path / "plain.jsonl", PLAIN)
    result = CliRunner().invoke(app, arguments(tmp_path))
    assert result.exit_code == 0, result.output
    return tmp_path


def test_examples_have_the_teachers_probabilities(folder: Path, trained: Language) -> None:
    examples = read(folder, trained)
    assert [eg.text for eg in examples] == [post["text"] for post in [*POSTS, *PLAIN]]
    labels = trained.get_pipe("ner").labels
    for example in examples:
        rows = example.reference.user_data["teacher"]
        assert rows.shape == (len(example.reference), 1 + 2 * len(labels))
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
        for row, token in zip(rows, trained(example.text), strict=True):
            first = 1 + 2 * labels.index(token.ent_type_) if token.ent_type_ else 0
            assert row.argmax() == first + (token.ent_iob_ == "I")
    assert examples[0].reference.ents
    assert not examples[-1].reference.has_annotation("ENT_IOB")


def test_posts_of_other_labels_are_read_alone(folder: Path, trained: Language) -> None:
    post = POSTS[0] | {"spans": [span | {"label": "OTHER"} for span in POSTS[0]["spans"]]}
    write_corpus(folder / "train.spacy", trained, [post])
    [example] = read(folder, trained)
    assert "teacher" not in example.reference.user_data


def test_a_post_that_the_teacher_did_not_see_has_its_annotation_alone(
    folder: Path, trained: Language
) -> None:
    own = POSTS[0] | {"meta": {"id": "own"}}
    write_corpus(folder / "train.spacy", trained, [own, POSTS[1]])
    taught = ["teacher" in example.reference.user_data for example in read(folder, trained)]
    assert taught == [False, True, True]


def test_what_no_longer_fits_is_named(folder: Path, trained: Language) -> None:
    write_posts(folder / "plain.jsonl", [PLAIN[0] | {"text": "longer than it was before"}])
    with pytest.raises(ValueError, match=r"plain0.*spacy project run teacher"):
        read(folder, trained)
    write_posts(folder / "plain.jsonl", [POSTS[0]])
    result = CliRunner().invoke(app, arguments(folder))
    assert result.exit_code == 1
    assert "plain.jsonl:1: has marks" in result.output
    (folder / "teacher.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"teacher\.npz.*spacy project run teacher"):
        read(folder, trained)


def test_plain_posts_are_learned_from_the_teacher_alone(
    folder: Path, trained: Language, encoder: Path
) -> None:
    examples = read(folder, trained)
    pupil = make_nlp(encoder)
    optimizer = pupil.initialize(lambda: examples[:-1], sgd=Adam(0.001))
    text, reference = PLAIN[0]["text"], examples[-1].reference
    for _ in range(100):
        pupil.update([Example(pupil.make_doc(text), reference)], sgd=optimizer)
    [(_, rows)] = teach(pupil, [Post(text, meta=PLAIN[0]["meta"])])
    assert np.abs(rows - reference.user_data["teacher"]).mean() < 0.02
