"""Scores against hand-counted posts, the loss against torch, and what a user sees of both."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from conftest import POSTS, TEXTS, make_nlp, make_post, overfit, write_posts
from spacy.language import Language
from spacy.tokens import DocBin
from typer import Typer
from typer.testing import CliRunner

from scripts.evaluate import (
    Prediction,
    count_errors,
    evaluate,
    evaluate_cli,
    predict,
    read_gold,
    score,
)
from scripts.posts import Post, read_posts

NAMES = {"ents_p", "ents_r", "ents_f", "ents_per_type", "speed", "loss", "accuracy", "encoder"}
NAMES |= {"errors"}
NAMES |= {f"ents_f_{end}" for end in ["partial", "seen", "unseen", "low", "high", "dictionary"]}


@pytest.fixture(scope="module")
def half_trained(encoder: Path) -> Iterator[Language]:
    """A pipeline that is right and wrong."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads cost more than they give on a model this small
    yield overfit(make_nlp(encoder), steps=12)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ruler() -> Language:
    """A pipeline of rules: SQL and R are T, Excel is S."""
    nlp = spacy.blank(
        "en", config={"nlp": {"tokenizer": {"@tokenizers": "skill_ner.Tokenizer.v1"}}}
    )
    patterns = [("SQL", "T"), ("R", "T"), ("Excel", "S"), ("team work", "S")]
    nlp.add_pipe("entity_ruler").add_patterns([{"pattern": p, "label": x} for p, x in patterns])
    return nlp


def marked(text: str, name: str = "") -> Post:
    """A post from text with spans written as [surface|LABEL]."""
    plain, spans = "", []
    for i, part in enumerate(text.replace("]", "[").split("[")):
        surface, _, label = part.partition("|")
        if i % 2:
            spans.append((len(plain), len(plain) + len(surface), label))
        plain += surface
    return Post(plain, spans, {"id": name})


# The ruler finds SQL, R, Excel, "team work", R; wrong are the label of R, and half of a border.
GOLD = [
    marked("[SQL|T] or [R|S] and [Excel|S].", "a"),
    marked("Strong [team|S] work in [R|T].", "b"),
    marked("[Java|T] alone.", "c"),
]
# Surfaces seen: sql, r, java.
TRAIN = [marked("[sql|T] [R|T] [r|S] [R|T]"), marked("[Java|S]")]


def test_hand_counted(ruler: Language) -> None:
    metrics = evaluate(ruler, GOLD, TRAIN)
    # Found 5, gold 6, right 3: SQL, Excel, and R of the second post.
    assert (metrics["ents_p"], metrics["ents_r"], metrics["ents_f"]) == (0.6, 0.5, 0.5455)
    # T: found SQL, R, R; gold SQL, R, Java; right 2. S: found Excel, team work; gold R, Excel,
    # team; right 1.
    assert metrics["ents_per_type"] == {
        "S": {"p": 0.5, "r": 0.3333, "f": 0.4, "support": 3},
        "T": {"p": 0.6667, "r": 0.6667, "f": 0.6667, "support": 3},
    }
    # Touching with the same label: 4 of 5 found (not R), 4 of 6 gold (neither R nor Java).
    assert metrics["ents_f_partial"] == 0.7273
    # Seen: found SQL, R, R; gold SQL, R, R, Java; right 2. Unseen: found Excel, team work; gold
    # Excel, team; right 1.
    seen = [metrics[f"ents_{key}_seen"] for key in "prf"]
    unseen = [metrics[f"ents_{key}_unseen"] for key in "prf"]
    assert (seen, unseen) == ([0.6667, 0.5, 0.5714], [0.5, 0.5, 0.5])
    # Words: SQL or R and Excel . | Strong team work in R . | Java alone . The tags of R (post 1),
    # work and Java are wrong.
    assert (metrics["words"], metrics["accuracy"]) == (15, 0.8)
    assert (metrics["posts"], metrics["spans"]) == (3, 6)
    assert metrics["speed"] > 0
    # No pipe of ours: no loss, and no encoder was recorded.
    assert (metrics["loss"], metrics["encoder"]) == (None, None)
    assert metrics["pipeline"] == "en_pipeline 0.0.0"
    assert set(metrics) >= NAMES


def test_errors_by_kind() -> None:
    text = "we need deep learning, data collection and analysis, Go, R, large SQL queries, Excel"

    def at(surface: str, label: str = "T") -> tuple[int, int, str]:
        return text.index(surface), text.index(surface) + len(surface), label

    gold = [at("deep learning"), at("data collection"), at("analysis"), at("Go"), at("R", "S")]
    gold += [at("SQL"), at("Excel", "S")]
    found = [at("learning"), at("data collection and analysis"), at("R"), at("large SQL queries")]
    found += [at("need"), at("Excel", "S")]
    errors = count_errors([Prediction(Post(text, gold), found, [])])
    assert {kind: counts for kind, counts in errors.items() if counts} == {
        "missed": {"T": 1},
        "spurious": {"T": 1},
        "wrong label": {"S": 1},
        "left border": {"T": 1},
        "both borders": {"T": 1},
        "split or merged": {"T": 2},
    }


def test_nothing_found_and_nothing_to_find(ruler: Language) -> None:
    for gold in ([marked("none here")], [marked("[Java|T]")], [marked("SQL")]):
        metrics = evaluate(ruler, gold, [])
        assert metrics["ents_p"] == metrics["ents_r"] == metrics["ents_f"] == 0.0
        assert metrics["ents_f_partial"] == metrics["ents_f_dictionary"] == 0.0
        assert metrics["accuracy"] in (0.0, 1.0)


def test_labels_with_equal_counts_are_not_mixed_up() -> None:
    # Each label has two found and two gold; only those of A are right.
    gold = Post("a b c d", [(0, 1, "A"), (2, 3, "A"), (4, 5, "B"), (6, 7, "B")], {})
    found = [(0, 1, "A"), (2, 3, "A"), (4, 7, "B"), (3, 4, "B")]
    metrics = score([Prediction(gold, found, [])])
    assert metrics["ents_f"] == 0.5
    assert [metrics["ents_per_type"][x]["f"] for x in "AB"] == [1.0, 0.0]
    # (4, 7) touches two gold spans: both are found by this one. (3, 4) only ends where one begins.
    assert metrics["ents_f_partial"] == pytest.approx(2 * 0.75 * 1.0 / 1.75, abs=1e-4)


def test_accuracy_tells_one_span_from_two(ruler: Language) -> None:
    assert evaluate(ruler, [marked("[team|S] [work|S]")], [])["accuracy"] == 0.5
    assert evaluate(ruler, [marked("[team work|S]")], [])["accuracy"] == 1.0


def test_interval(ruler: Language) -> None:
    metrics = evaluate(ruler, GOLD * 5, TRAIN)
    assert metrics["ents_f_low"] < metrics["ents_f"] < metrics["ents_f_high"]
    again = evaluate(ruler, GOLD * 5, TRAIN)
    assert [again[k] for k in ("ents_f_low", "ents_f_high")] == [
        metrics[k] for k in ("ents_f_low", "ents_f_high")
    ]
    wider = evaluate(ruler, GOLD, TRAIN)
    assert wider["ents_f_low"] < metrics["ents_f_low"]
    # Posts are drawn, not spans: alike posts leave nothing to chance.
    alike = evaluate(ruler, GOLD[:1] * 9, TRAIN)
    assert alike["ents_f_low"] == alike["ents_f"] == alike["ents_f_high"]


@pytest.mark.parametrize(
    ("train", "gold", "f"),
    [
        # The longest surface wins; case does not matter.
        ("[machine|S] [Machine Learning|T]", "MACHINE LEARNING, [machine|S]", 0.6667),
        ("[machine|S] [Machine Learning|T]", "[MACHINE LEARNING|T], [machine|S]", 1.0),
        # The label that a surface has most often.
        ("[SQL|S] [sql|T] [Sql|T]", "[SQL|T] [SQL|T]", 1.0),
        ("[SQL|S] [sql|T] [Sql|T]", "[SQL|S] [SQL|S]", 0.0),
        # Whole tokens only; signs belong to names.
        ("[C|T] [C++|S] [.NET|T]", "[C|T]/[C++|S]/[.NET|T], Cat", 1.0),
        # Found wherever it stands, also where it is no skill.
        ("[Go|T]", "[Go|T]. Go ahead, go", 0.5),
        ("[R|T]", "[SQL|T]", 0.0),
    ],
)
def test_dictionary(ruler: Language, train: str, gold: str, f: float) -> None:
    assert evaluate(ruler, [marked(gold)], [marked(train)])["ents_f_dictionary"] == f


def test_loss_and_accuracy_are_those_of_the_logits(half_trained: Language) -> None:
    gold = [
        Post(p["text"], [(s["start"], s["end"], s["label"]) for s in p["spans"]], {}) for p in POSTS
    ]
    gold.append(Post("machine  learning\n\nand team", [(0, 17, "SOFT")], {}))
    metrics = evaluate(half_trained, gold, [])
    ner = half_trained.get_pipe("ner")
    logits, classes = [], []
    for post in gold:
        doc = half_trained(post.text)
        rows = ner.model.predict([doc])[0]
        for token, row in zip(doc, rows, strict=True):
            inside = [(a, x) for a, b, x in post.spans if a <= token.idx < b]
            if token.text.strip():
                logits.append(row)
                first = [1 + 2 * ner.labels.index(x) + (a < token.idx) for a, x in inside]
                classes.append(first[0] if first else 0)
    logits, classes = torch.tensor(np.array(logits)), torch.tensor(classes)
    loss = torch.nn.functional.cross_entropy(logits, classes)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-4)
    assert metrics["words"] == len(classes)
    assert 0 < metrics["ents_f"] < 1
    # A post without words takes part with nothing, not with an unknown loss.
    assert (
        evaluate(half_trained, [*gold, Post("", [], {}), Post("\n", [], {})], [])["loss"]
        == (metrics["loss"])
    )


def test_a_label_that_the_pipeline_lacks_leaves_no_loss(half_trained: Language) -> None:
    metrics = evaluate(half_trained, [marked("[Python|NEW]")], [])
    assert metrics["loss"] is None
    assert metrics["ents_per_type"]["NEW"]["support"] == 1


def test_predictions_have_confidences_and_drop_the_hidden_states(trained: Language) -> None:
    (prediction,) = predict(trained, [marked(TEXTS[0][0])])
    assert len(prediction.confidences) == len(prediction.spans) == 3
    assert all(0 < p <= 1 for p in prediction.confidences)


def test_posts_are_scored_by_characters(ruler: Language, tmp_path: Path) -> None:
    # "Exc" and "QL" are no tokens; a span out of range and an empty one can't be found.
    spans = [(0, 3, "T"), (5, 7, "T"), (12, 15, "S"), (12, 17, "S"), (90, 95, "T"), (3, 3, "T")]
    post = {"text": "SQL SQL and Excel", "spans": []}
    post["spans"] = [{"start": a, "end": b, "label": x} for a, b, x in spans]
    path = write_posts(tmp_path / "posts.jsonl", [post])
    assert read_gold(path)[0].spans == sorted(spans)
    metrics = evaluate(ruler, read_gold(path), [])
    # Found 3: SQL, SQL, Excel; right are the first and the last.
    assert (metrics["ents_p"], metrics["ents_r"]) == (0.6667, 0.3333)
    assert metrics["spans"] == 6
    assert [p.text for p in read_posts(path)] == ["SQL SQL and Excel"]


def write_corpus(path: Path, posts: list[Post], nlp: Language) -> Path:
    """Posts as `convert` writes them."""
    docs = []
    for post in posts:
        doc = nlp.make_doc(post.text)
        doc.set_ents([doc.char_span(a, b, x) for a, b, x in post.spans])
        doc.user_data["meta"] = post.meta
        docs.append(doc)
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


def run(*arguments: object) -> tuple[int, str]:
    """The command's exit status and what it prints, or its message where it refuses."""
    app = Typer()
    app.command()(evaluate_cli)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout if done.exit_code == 0 else str(done.exception)


def test_command_scores_any_pipeline(ruler: Language, tmp_path: Path) -> None:
    plain = spacy.blank("en")
    plain.add_pipe("entity_ruler").add_patterns([{"label": "T", "pattern": "SQL"}])
    plain.to_disk(tmp_path / "model")
    test = write_corpus(tmp_path / "test.spacy", GOLD, ruler)
    train = write_corpus(tmp_path / "train.spacy", TRAIN, ruler)
    output = tmp_path / "metrics" / "test.json"
    files = ["--corpus", test, "--train", train, "--output", output]
    code, printed = run(tmp_path / "model", *files)
    assert code == 0
    metrics = json.loads(output.read_text())
    assert set(metrics) >= NAMES
    assert [metrics[k] for k in ("ents_p", "ents_r", "loss", "encoder")] == [
        1.0,
        0.1667,
        None,
        None,
    ]
    # spaCy's own tokenizer takes "R." for one word: 9 of 14 tags are right.
    assert "loss -, accuracy 0.6429, 3 posts" in printed
    assert [path.name for path in output.parent.iterdir()] == ["test.json"]
    # The corpus is read as it was written: the same scores as from the posts themselves.
    expected = evaluate(plain, GOLD, TRAIN)
    assert {**metrics, "speed": 0} == json.loads(json.dumps({**expected, "speed": 0}))
    posts = write_posts(tmp_path / "posts.jsonl", [make_post("SQL", ["SQL"], [], "x")])
    code, _ = run(tmp_path / "model", *files, "--posts", posts)
    assert code == 0
    metrics = json.loads(output.read_text())
    assert metrics["ents_per_type"]["TECHNOLOGY"]["support"] == metrics["posts"] == 1


def test_command_scores_a_trained_pipeline(half_trained: Language, tmp_path: Path) -> None:
    half_trained.meta["encoder"] = {"name": "tiny"}
    half_trained.to_disk(tmp_path / "model")
    del half_trained.meta["encoder"]
    path = write_posts(tmp_path / "posts.jsonl", POSTS)
    corpus = write_corpus(tmp_path / "test.spacy", read_posts(path), half_trained)
    output = tmp_path / "test.json"
    code, _ = run(tmp_path / "model", "--corpus", corpus, "--train", corpus, "--output", output)
    assert code == 0
    metrics = json.loads(output.read_text())
    assert metrics["encoder"] == {"name": "tiny"}
    assert metrics["loss"] > 0
    assert metrics["ents_f_unseen"] == 0.0
    assert metrics["ents_f_dictionary"] == 1.0


def test_command_names_what_is_missing(ruler: Language, tmp_path: Path) -> None:
    model, none = tmp_path / "model", tmp_path / "none"
    ruler.to_disk(model)
    corpus = write_corpus(tmp_path / "test.spacy", GOLD, ruler)
    (tmp_path / "folder").mkdir()
    for arguments, message in [
        ([none, "--corpus", corpus, "--train", corpus], f"{none}: no pipeline here ("),
        ([tmp_path / "folder"], f"{tmp_path / 'folder'}: no pipeline here ("),
        ([model, "--corpus", none], f"{none}: not found, make it with `spacy project run convert`"),
        ([model, "--corpus", corpus, "--train", none], f"{none}: not found, make it with"),
        ([model, "--posts", none, "--train", corpus], f"{none}: no annotated posts here"),
        ([model, "--corpus", model / "meta.json"], f"{model / 'meta.json'}: no DocBin"),
    ]:
        code, printed = run(*arguments, "--output", tmp_path / "test.json")
        assert code == 1
        assert printed.startswith(message)
        assert len(printed.splitlines()) == 1
    assert not (tmp_path / "test.json").exists()
