"""A pipeline and held-out posts → metrics/*.json."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import typer
from rich.console import Console
from rich.table import Table
from spacy.language import Language
from spacy.matcher import PhraseMatcher
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import filter_spans
from tqdm import tqdm
from typer import Argument as Arg
from typer import Option as Opt

from scripts.posts import Post, find_files, read_posts, write_json

BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED = 1000, 42
Mark = tuple[int, int, str]
Spans = list[Mark]


@dataclass
class Prediction:
    """What a pipeline found in a post, beside what is there.

    loss, n_tokens, n_right: Summed cross-entropy and counts of words, for averages. The loss is
        None for a pipeline without our `ner`.
    """

    post: Post
    spans: Spans
    confidences: list[float | None]
    loss: float | None = None
    n_tokens: int = 0
    n_right: int = 0


def evaluate_cli(
    pipeline: str = Arg("training/model-best", help="Folder or name of a loadable pipeline"),
    corpus: Path = Opt(Path("corpus/test.spacy"), help="Held-out posts as DocBin"),
    posts: Path | None = Opt(None, help="Annotated posts (JSONL) to score instead, by characters"),
    train: Path = Opt(
        Path("corpus/train.spacy"), help="Training posts: known surfaces, dictionary"
    ),
    output: Path | None = Opt(None, help="JSON file for the metrics"),
    gpu_id: int = Opt(-1, help="GPU to use; -1: the CPU"),
) -> None:
    """Score a pipeline on whole posts: strict and partial F1, seen and unseen surfaces, loss."""
    try:
        if gpu_id >= 0:
            spacy.require_gpu(gpu_id)
        nlp = load_pipeline(pipeline)
        gold = read_gold(posts) if posts else read_corpus(corpus, nlp)
        metrics = evaluate(nlp, gold, read_corpus(train, nlp))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if output is not None:
        write_json(output, metrics)
    print_metrics(metrics)


def load_pipeline(name: str) -> Language:
    """Load a trained pipeline, from a folder or an installed package.

    RAISES (ValueError): There is none of this name.
    """
    if Path(name).is_dir():
        import scripts.skill_ner  # noqa: F401 (a folder does not bring its code along)
    try:
        return spacy.load(name)
    except OSError as error:
        raise ValueError(
            f"{name}: no pipeline here ({error}). Train one with `spacy project run train`, or "
            "name an installed package."
        ) from None


def read_gold(path: Path) -> list[Post]:
    """Read annotated posts to score against; RAISES (ValueError): the file is unfit."""
    return [post for file in find_files([path]) for post in read_posts(file)]


def read_corpus(path: Path, nlp: Language) -> list[Post]:
    """Read the posts of a DocBin corpus.

    RAISES (ValueError): The file is missing or no DocBin.
    """
    if not path.is_file():
        raise ValueError(f"{path}: not found, make it with `spacy project run convert`.")
    try:
        docs = DocBin().from_disk(path)
    except ValueError:
        raise ValueError(
            f"{path}: no DocBin corpus, make it with `spacy project run convert`."
        ) from None
    return [doc_to_post(doc) for doc in docs.get_docs(nlp.vocab)]


def doc_to_post(doc: Doc) -> Post:
    """RETURNS (Post): The doc's text and entities, by characters."""
    spans = [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]
    return Post(doc.text, spans, doc.user_data.get("meta", {}))


def evaluate(nlp: Language, gold: list[Post], train: list[Post]) -> dict[str, Any]:
    """Score a pipeline.

    nlp (Language): Any pipeline that sets `doc.ents`.
    gold (list[Post]): Held-out posts.
    train (list[Post]): Posts that the pipeline was trained on: which surfaces it has seen.
    RETURNS (dict[str, Any]): Metrics under spaCy's names, and ours; shares from 0 to 1. `loss` is
        the mean cross-entropy a word, `accuracy` the share of words with the right BIO tag.
    """
    started = Stopwatch()
    predictions = list(tqdm(predict(nlp, gold, started), "posts", len(gold), disable=None))
    metrics = score(predictions)
    seen = {post.text[a:b].casefold() for post in train for a, b, _ in post.spans}
    for name, known in (("seen", True), ("unseen", False)):
        counts = _count(predictions, keep=lambda s, k=known: (s.casefold() in seen) is k)
        metrics |= {f"ents_{key}_{name}": value for key, value in _prf(*counts.sum(axis=0)).items()}
    metrics["ents_f_low"], metrics["ents_f_high"] = _interval(_count(predictions))
    metrics["ents_f_dictionary"] = score(_look_up(nlp, gold, train))["ents_f"]
    metrics["errors"] = count_errors(predictions)
    metrics["speed"] = round(sum(p.n_tokens for p in predictions) / started.seconds, 1)
    metrics["pipeline"] = f"{nlp.meta['lang']}_{nlp.meta['name']} {nlp.meta['version']}"
    return metrics | {key: nlp.meta.get(key) for key in ("encoder", "trained_on")}


class Stopwatch:
    """Adds up the seconds that a generator takes, without those of its consumer."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, items: Iterable[Any]) -> Iterator[Any]:
        """YIELDS (Any): The items."""
        iterator, end = iter(items), object()
        while True:
            started = time.perf_counter()
            item = next(iterator, end)
            self.seconds += time.perf_counter() - started
            if item is end:
                return
            yield item


def predict(
    nlp: Language, gold: list[Post], stopwatch: Stopwatch | None = None
) -> Iterator[Prediction]:
    """Run a pipeline over posts.

    YIELDS (Prediction): One a post, in order.
    """
    ner = nlp.get_pipe("ner") if "ner" in nlp.pipe_names else None
    docs = nlp.pipe(post.text for post in gold)
    for post, doc in zip(gold, (stopwatch or Stopwatch()).time(docs), strict=True):
        reference = _gold_doc(doc, post.spans)
        words = [i for i, token in enumerate(doc) if not token.is_space]
        right = sum(_tag(doc[i]) == _tag(reference[i]) for i in words)
        prediction = Prediction(
            post,
            [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents],
            [ent._.confidence if ent.has_extension("confidence") else None for ent in doc.ents],
            n_tokens=len(words),
            n_right=right,
        )
        if hasattr(ner, "get_loss") and hasattr(ner, "decoder"):
            known = set(ner.labels)
            if not words:
                prediction.loss = 0.0  # a post without words must not take the loss from all
            elif all(label in known for _, _, label in post.spans):
                loss, _ = ner.get_loss([Example(doc, reference)], ner.model.predict([doc]))
                prediction.loss = loss * len(words)
        if doc.has_extension("trf_data"):
            doc._.trf_data = None  # the hidden states of all posts would not fit
        yield prediction


def _tag(token: Any) -> str:
    return f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O"


def _gold_doc(doc: Doc, spans: Spans) -> Doc:
    """The gold entities on the doc's own tokens; a token belongs to each span that it touches."""
    reference = Doc(doc.vocab, [t.text for t in doc], [bool(t.whitespace_) for t in doc])
    wide = (reference.char_span(a, b, label, alignment_mode="expand") for a, b, label in spans)
    reference.set_ents(filter_spans([span for span in wide if span is not None]))
    return reference


def score(predictions: list[Prediction]) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): Strict and partial scores, per label, loss and accuracy."""
    labels = sorted({s[2] for p in predictions for s in [*p.spans, *p.post.spans]})
    n_words = max(sum(p.n_tokens for p in predictions), 1)
    losses = [p.loss for p in predictions]
    metrics = {
        f"ents_{key}": value for key, value in _prf(*_count(predictions).sum(axis=0)).items()
    }
    metrics["ents_f_partial"] = _partial_f(predictions)
    metrics["ents_per_type"] = {}
    for label in labels:
        found, predicted, expected = _count(predictions, label).sum(axis=0)
        counts = _prf(found, predicted, expected)
        metrics["ents_per_type"][label] = {**counts, "support": int(expected)}
    metrics["loss"] = None if None in losses or not losses else round(sum(losses) / n_words, 5)
    metrics["accuracy"] = round(sum(p.n_right for p in predictions) / n_words, 4)
    metrics["posts"], metrics["words"] = len(predictions), sum(p.n_tokens for p in predictions)
    metrics["spans"] = sum(len(p.post.spans) for p in predictions)
    return metrics


def _count(
    predictions: list[Prediction],
    label: str | None = None,
    keep: Callable[[str], bool] = lambda _: True,
) -> np.ndarray:
    """Right, predicted and gold spans of each post, of one label, of surfaces to keep.

    Shape: (n_posts, 3).
    """
    rows = []
    for p in predictions:
        gold, found = (
            {s for s in spans if label in (None, s[2]) and keep(p.post.text[s[0] : s[1]])}
            for spans in (p.post.spans, p.spans)
        )
        rows.append((len(gold & found), len(found), len(gold)))
    return np.array(rows).reshape(-1, 3)


def _prf(right: int, predicted: int, gold: int) -> dict[str, float]:
    p, r = right / max(predicted, 1), right / max(gold, 1)
    return {"p": round(p, 4), "r": round(r, 4), "f": round(2 * right / max(predicted + gold, 1), 4)}


def _partial_f(predictions: list[Prediction]) -> float:
    """F1 where a span is right if it shares a character with one of its label on the other side."""

    def touching(spans: Spans, others: Spans) -> int:
        return sum(any(a < d and c < b and x == y for c, d, y in others) for a, b, x in spans)

    predicted = sum(len(p.spans) for p in predictions)
    gold = sum(len(p.post.spans) for p in predictions)
    precision = sum(touching(p.spans, p.post.spans) for p in predictions) / max(predicted, 1)
    recall = sum(touching(p.post.spans, p.spans) for p in predictions) / max(gold, 1)
    return round(2 * precision * recall / max(precision + recall, 1e-9), 4)


def count_errors(predictions: list[Prediction]) -> dict[str, dict[str, int]]:
    """Count what went wrong: each gold span that was not found so, each predicted one of no gold.

    RETURNS (dict[str, dict[str, int]]): For each kind of error its number by label, that of the
        gold span or of the spurious one. "split or merged": several spans stand against one.
    """
    kinds = ["missed", "spurious", "wrong label", "left border", "right border", "both borders"]
    errors = {kind: Counter() for kind in [*kinds, "split or merged"]}
    for p in predictions:
        gold, found = set(p.post.spans), set(p.spans)
        for span in gold - found:
            errors[_error_kind(span, gold, found)][span[2]] += 1
        for span in found - gold:
            if not _touching(span, gold):
                errors["spurious"][span[2]] += 1
    return {kind: dict(sorted(counts.items())) for kind, counts in errors.items()}


def _error_kind(span: Mark, gold: set[Mark], found: set[Mark]) -> str:
    others = _touching(span, found)
    if not others:
        return "missed"
    start, end, _ = others[0]
    if (start, end) == span[:2]:
        return "wrong label"
    if len(others) > 1 or len(_touching(others[0], gold)) > 1:
        return "split or merged"
    if start == span[0]:
        return "right border"
    return "left border" if end == span[1] else "both borders"


def _touching(span: Mark, others: set[Mark]) -> Spans:
    return [other for other in others if other[0] < span[1] and span[0] < other[1]]


def _interval(counts: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap over posts (Efron & Tibshirani 1993, chapter 13) of strict F1."""
    sampler = np.random.default_rng(BOOTSTRAP_SEED)
    chosen = sampler.integers(0, len(counts), (BOOTSTRAP_SAMPLES, len(counts)))
    right, predicted, gold = counts[chosen].sum(axis=1).T
    low, high = np.percentile(2 * right / np.maximum(predicted + gold, 1), [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def _look_up(nlp: Language, gold: list[Post], train: list[Post]) -> list[Prediction]:
    """The dictionary baseline: the longest surfaces of the training spans, with the label that
    each has most often."""
    votes: dict[str, Counter[str]] = {}
    for post in train:
        for start, end, label in post.spans:
            votes.setdefault(post.text[start:end].casefold(), Counter())[label] += 1
    matcher = PhraseMatcher(nlp.vocab, attr="LOWER")
    for surface, labels in votes.items():
        matcher.add(labels.most_common(1)[0][0], [nlp.make_doc(surface)])
    found = []
    for post in gold:
        spans = filter_spans(matcher(nlp.make_doc(post.text), as_spans=True))
        found.append(Prediction(post, [(s.start_char, s.end_char, s.label_) for s in spans], []))
    return found


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print the scores as a table."""
    table = Table("", "precision", "recall", "F1", "spans")
    for name, row in metrics["ents_per_type"].items():
        table.add_row(name, *(f"{row[k]:.4f}" for k in "prf"), f"{row['support']:,}")
    for name, end in (("all", ""), ("seen surfaces", "_seen"), ("unseen surfaces", "_unseen")):
        cells = [f"{metrics[f'ents_{key}{end}']:.4f}" for key in "prf"]
        table.add_row(name, *cells, "" if end else f"{metrics['spans']:,}", style=end and "dim")
    Console().print(table)
    labels = [*metrics["ents_per_type"]]
    kinds = Table("errors", *labels, "all")
    for kind, counts in metrics["errors"].items():
        cells = [counts.get(label, 0) for label in labels]
        kinds.add_row(kind, *(f"{n:,}" for n in [*cells, sum(cells)]))
    Console().print(kinds)
    loss = "-" if metrics["loss"] is None else f"{metrics['loss']:.4f}"
    print(
        f"95 % interval of F1 {metrics['ents_f_low']:.4f} to {metrics['ents_f_high']:.4f}, "
        f"partial F1 {metrics['ents_f_partial']:.4f}, "
        f"dictionary {metrics['ents_f_dictionary']:.4f}\n"
        f"loss {loss}, accuracy {metrics['accuracy']:.4f}, {metrics['posts']} posts, "
        f"{metrics['speed']:,.0f} words/s"
    )


if __name__ == "__main__":
    typer.run(evaluate_cli)
