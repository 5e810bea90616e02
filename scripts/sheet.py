"""Annotated posts → the counts in their data sheet."""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer import Argument as Arg
from typer import Option as Opt

from scripts.agreement import agreement, by_number
from scripts.convert import SPLITS, split_posts
from scripts.posts import Post, read_fit, write_bytes

# Keys of a post's meta that span the matrix; of a list each value counts.
MATRIX = ["family", "seniority", "country", "channel", "voice", "era", "structure", "mess"]
MANY = ["role", "industry"]
LENGTHS = [0, 260, 350, 450, 550, 650, 800]
REGION = re.compile(r"(<!-- counts -->\n).*(<!-- /counts -->)", re.DOTALL)


def sheet_cli(
    posts: Path = Arg(..., help="Annotated posts: a JSONL file, or a folder of them"),
    second: Path | None = Opt(None, help="Posts annotated a second time"),
    readme: Path = Opt(Path("assets/README.md"), help="Data sheet, with marks around its counts"),
    seed: int = Opt(42, help="Seed of the split"),
) -> None:
    """Count posts by file, label, split and cell of the matrix, and write the counts."""
    try:
        first = read_fit(posts)
        text = readme.read_text(encoding="utf-8")
        if not REGION.search(text):
            raise ValueError(
                f"{readme}: expected the lines `<!-- counts -->` and `<!-- /counts -->` in it."
            )
        lines = describe(first, read_fit(second) if second else [], seed)
        counts = "".join(f"{line}\n" for line in lines)
        write_bytes(readme, REGION.sub(lambda m: m[1] + counts + m[2], text).encode())
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{readme}: counts of {len(first):,} posts.")


def describe(posts: list[Post], second: list[Post], seed: int) -> Iterator[str]:
    """YIELDS (str): The lines of the counts, as Markdown."""
    sides = split_posts(posts, seed)
    labels = sorted({label for post in posts for _, _, label in post.spans})
    rounds = defaultdict(list)
    splits = defaultdict(list)
    for post, side in zip(posts, sides, strict=True):
        rounds[str(post.meta.get("round", "-"))].append(post)
        splits[side].append(post)
    yield from _table(
        "round", {name: rounds[name] for name in sorted(rounds, key=by_number)}, labels
    )
    yield ""
    yield from _table("split", {name: splits[name] for name in SPLITS} | {"all": posts}, labels)
    yield ""
    yield "| key | posts by value |\n|---|---|"
    words = Counter(_length(len(post.text.split())) for post in posts)
    yield f"| words | {_join((name, words[name]) for name in map(_length, LENGTHS))} |"
    for key in MATRIX:
        values = Counter(each for post in posts for each in _values(post, key))
        yield f"| {key} | {_join(values.most_common())} |"
    for key in MANY:
        values = Counter(each for post in posts for each in _values(post, key))
        top = _join(values.most_common(12))
        yield f"| {key} | {len(values)} values; {top} … |"
    if second:
        yield ""
        yield from _agreement(agreement(posts, second))


def _table(key: str, groups: dict[str, list[Post]], labels: list[str]) -> Iterator[str]:
    yield f"| {key} | posts | words | spans | {' | '.join(labels)} |"
    yield "|---|" + "---|" * (3 + len(labels))
    for name, posts in groups.items():
        found = Counter(label for post in posts for _, _, label in post.spans)
        words = sum(len(post.text.split()) for post in posts)
        cells = [len(posts), words, found.total(), *(found[label] for label in labels)]
        yield f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} |"


def _agreement(figures: dict[str, Any]) -> Iterator[str]:
    labels = list(figures["f_per_type"])
    yield f"| read twice, round | posts | spans | F1 | {' | '.join(labels)} | kappa |"
    yield "|---|" + "---|" * (4 + len(labels))
    for name, row in [*figures["by"].items(), ("all", figures)]:
        per_label = " | ".join(f"{row['f_per_type'].get(label, 0):.3f}" for label in labels)
        spans = "/".join(f"{n:,}" for n in row["spans"])
        yield (
            f"| {name} | {row['posts']} | {spans} | {row['f']:.3f} | {per_label} "
            f"| {row['kappa']:.3f} |"
        )


def _values(post: Post, key: str) -> list[str]:
    value = post.meta.get(key, "not recorded")
    return value if isinstance(value, list) else [str(value)]


def _length(words: int) -> str:
    low = max(bound for bound in LENGTHS if bound <= words)
    higher = [bound for bound in LENGTHS if bound > words]
    return f"{low} to {higher[0] - 1}" if higher else f"{low} and more"


def _join(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts)


if __name__ == "__main__":
    typer.run(sheet_cli)
