"""Posts annotated twice → how far the two annotators agree."""

import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import spacy
import typer
from rich.console import Console
from rich.table import Table
from spacy.tokenizer import Tokenizer
from typer import Argument as Arg
from typer import Option as Opt

from scripts.evaluate import Prediction, score
from scripts.posts import Post, raise_errors, read_fit, write_json
from scripts.skill_ner.tokenizer import create_tokenizer  # noqa: F401 (registers it)


def agreement_cli(
    first: Path = Arg(..., help="Annotated posts: a JSONL file, or a folder of them"),
    second: Path = Arg(..., help="The same posts, or some of them, annotated by another"),
    by: str = Opt("round", help="Key of the first annotator's meta to report apart"),
    output: Path | None = Opt(None, help="JSON file for the figures"),
) -> None:
    """Report strict span F1 per label, and kappa on tokens, between two annotators."""
    try:
        figures = agreement(*(read_fit(path) for path in (first, second)), by)
        if output is not None:
            write_json(output, figures)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    _print(figures, by)


def agreement(first: list[Post], second: list[Post], by: str = "round") -> dict[str, Any]:
    """Compare the second annotation of every post with the first.

    first (list[Post]): Posts; those without a second annotation are passed over.
    second (list[Post]): Posts of the same ids and texts.
    by (str): Key of the first's meta whose values are reported apart.
    RETURNS (dict[str, Any]): Scores over all posts, and by value under `by`. F1 is the same
        whichever annotator is taken as the reference (Hripcsak & Rothschild 2005).
    RAISES (ValueError): A post of the second is not among the first, or has another text.
    """
    known = {post.id: post for post in first}
    errors = [
        f"{post.where}: {post.id!r} is not among the first annotator's posts; name their file."
        if post.id not in known
        else f"{post.where}: {post.id!r} has another text than in {known[post.id].where}."
        for post in second
        if post.id not in known or known[post.id].text != post.text
    ]
    raise_errors(errors)
    groups = defaultdict(list)
    for post in second:
        groups[str(known[post.id].meta.get(by, "-"))].append((known[post.id], post))
    pairs = [pair for group in groups.values() for pair in group]
    figures = _compare(pairs)
    figures["by"] = {name: _compare(groups[name]) for name in sorted(groups, key=by_number)}
    return figures


def by_number(name: str) -> tuple[bool, int, str]:
    """Sort key: "2" before "10", names after numbers."""
    return not name.isdigit(), len(name) if name.isdigit() else 0, name


def _compare(pairs: list[tuple[Post, Post]]) -> dict[str, Any]:
    scores = score([Prediction(a, b.spans, []) for a, b in pairs])
    labels = {label: row["f"] for label, row in scores["ents_per_type"].items()}
    return {
        "posts": len(pairs),
        "spans": [sum(len(post.spans) for post in side) for side in zip(*pairs, strict=True)],
        "f": scores["ents_f"],
        "f_partial": scores["ents_f_partial"],
        "f_per_type": labels,
        "kappa": kappa(pairs),
    }


def kappa(pairs: list[tuple[Post, Post]]) -> float:
    """Cohen's kappa (1960) over tokens; a token's category is the label of its span, or none.

    RETURNS (float): 1 for the same annotation, 0 for what chance gives.
    """
    cells: Counter[tuple[str, str]] = Counter()
    for a, b in pairs:
        words = [token for token in _tokenizer()(a.text) if not token.is_space]
        tags = []
        for post in (a, b):
            at = {i: label for start, end, label in post.spans for i in range(start, end)}
            tags.append([at.get(word.idx, "") for word in words])
        cells.update(zip(*tags, strict=True))
    total = cells.total()
    sides = [Counter(), Counter()]
    for pair, count in cells.items():
        for side, tag in zip(sides, pair, strict=True):
            side[tag] += count
    agreed = sum(count for (x, y), count in cells.items() if x == y) / max(total, 1)
    chance = sum(count * sides[1][tag] for tag, count in sides[0].items()) / max(total, 1) ** 2
    return round((agreed - chance) / (1 - chance), 4) if chance < 1 else 1.0


@cache
def _tokenizer() -> Tokenizer:
    config = {"nlp": {"tokenizer": {"@tokenizers": "skill_ner.Tokenizer.v1"}}}
    return spacy.blank("en", config=config).tokenizer


def _print(figures: dict[str, Any], by: str) -> None:
    labels = list(figures["f_per_type"])
    table = Table(by, "posts", "spans", "F1", *labels, "kappa")
    for name, row in [*figures["by"].items(), ("all", figures)]:
        cells = (f"{row['f_per_type'][x]:.3f}" if x in row["f_per_type"] else "-" for x in labels)
        spans = "/".join(f"{n:,}" for n in row["spans"])
        table.add_row(
            name, str(row["posts"]), spans, f"{row['f']:.3f}", *cells, f"{row['kappa']:.3f}"
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(agreement_cli)
