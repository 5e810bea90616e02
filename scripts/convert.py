"""Annotated posts → corpus/{train,dev,test}.spacy."""

import hashlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import typer
from rich.console import Console
from rich.table import Table
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.util import load_config
from tqdm import tqdm
from typer import Argument as Arg
from typer import Option as Opt

from scripts.encoder import read_encoder
from scripts.posts import (
    Post,
    check_posts,
    find_files,
    raise_problems,
    read_posts,
    write_bytes,
    write_json,
)
from scripts.skill_ner.tokenizer import create_tokenizer  # noqa: F401 (registers it)
from scripts.skill_ner.windows import pack_lines

SPLITS = {"train": 0.70, "dev": 0.15, "test": 0.15}
# Two posts are near-duplicates if they share half of their runs of three words (Jaccard).
SHINGLE, SIMILAR = 3, 0.5


def convert_cli(
    posts: list[Path] = Arg(..., help="Annotated posts: JSONL files, or folders of them"),
    output: Path = Opt(Path("corpus"), help="Folder for train.spacy, dev.spacy, test.spacy"),
    encoder: Path | None = Opt(None, help="Encoder folder; its windows are counted"),
    labels: str = Opt("", help="Comma-separated labels that may occur; empty: any label"),
    seed: int = Opt(42, help="Seed of the split"),
    report: Path | None = Opt(None, help="JSON file for the counts"),
) -> None:
    """Check annotated posts, split them by post, and write them as DocBin corpora."""
    try:
        known = [label.strip() for label in labels.split(",") if label.strip()]
        counts = convert(posts, output, encoder=encoder, labels=known, seed=seed)
        if report is not None:
            write_json(report, counts)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    _print_report(counts)


def convert(
    paths: Iterable[Path],
    output: Path,
    *,
    encoder: Path | None = None,
    labels: Iterable[str] = (),
    seed: int = 42,
) -> dict[str, Any]:
    """Check posts, split them and write the three corpora.

    paths (Iterable[Path]): JSONL files, or folders of them.
    output (Path): Folder to write to.
    encoder (Path | None): Encoder folder, to count windows.
    labels (Iterable[str]): Labels that may occur; empty: any.
    seed (int): Seed of the split.
    RETURNS (dict[str, Any]): Counts per split.
    RAISES (ValueError): A post is unfit; the message names file, line, span and remedy.
    """
    posts = [post for path in find_files(paths) for post in read_posts(path)]
    nlp = spacy.blank(
        "en", config={"nlp": {"tokenizer": {"@tokenizers": "skill_ner.Tokenizer.v1"}}}
    )
    check_posts(posts, labels)
    docs = [post_to_doc(nlp, post) for post in tqdm(posts, "tokens", disable=None)]
    raise_problems(posts)
    sides = split_posts(posts, seed)
    raise_problems(posts)
    parts: dict[str, list[Doc]] = {split: [] for split in SPLITS}
    for doc, side in zip(docs, sides, strict=True):
        parts[side].append(doc)
    if empty := [split for split in SPLITS if not parts[split]]:
        raise ValueError(
            f"No post fell into {', '.join(empty)}: {len(posts)} posts are too few to split, "
            "add posts or try another seed."
        )
    for split, members in parts.items():
        write_bytes(
            output / f"{split}.spacy", DocBin(docs=members, store_user_data=True).to_bytes()
        )
    return _count(parts, encoder)


def post_to_doc(nlp: Language, post: Post) -> Doc:
    """RETURNS (Doc): The post with its spans as entities; what does not fit is a problem of it."""
    doc = nlp.make_doc(post.text)
    ents = []
    for start, end, label in post.spans:
        span = doc.char_span(start, end, label=label)
        if span is None:
            wide = doc.char_span(start, end, alignment_mode="expand")
            post.problems.append(
                f"span {start}-{end} {label} {post.text[start:end]!r} does not fit the tokens "
                f"{[token.text for token in wide]}: move its borders to theirs."
            )
        else:
            ents.append(span)
    doc.set_ents(ents)
    doc.user_data["meta"] = post.meta
    return doc


def split_posts(posts: list[Post], seed: int) -> list[str]:
    """Choose each post's side by a hash of the seed and its group's id alone.

    A post's group is its `meta.group` if it has one, else that of the first post before it of
    which it is a near-duplicate, else its own id: so a post added at the end moves no other.

    RETURNS (list[str]): "train", "dev" or "test" for each post. A post that resembles posts on
        two sides gets a problem.
    """
    groups: list[str] = []
    sides: list[str] = []
    for i, (post, like) in enumerate(zip(posts, near_duplicates(posts), strict=True)):
        group = post.meta.get("group")
        if group is None:
            group = groups[like[0]] if like else post.id
        groups.append(str(group))
        sides.append(_side(f"{seed}:{group}"))
        for j in like:
            if sides[j] != sides[i]:
                post.problems.append(
                    f"near-duplicate of {posts[j].where} ({sides[j]}), yet its group {group!r} is "
                    f'in {sides[i]}: give both one "group" in "meta", or drop one.'
                )
    return sides


def near_duplicates(posts: list[Post]) -> Iterator[list[int]]:
    """Find the posts that share half of their runs of three words with an earlier one (Jaccard).

    YIELDS (list[int]): For each post, the earlier ones that it resembles.
    """
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    for i, post in enumerate(tqdm(posts, "near-duplicates", disable=None)):
        shingles = _shingles(post.text)
        shared = Counter(j for shingle in shingles for j in holders[shingle])
        yield sorted(j for j, n in shared.items() if n >= SIMILAR * (sizes[j] + len(shingles) - n))
        sizes.append(len(shingles))
        for shingle in shingles:
            holders[shingle].append(i)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return set(zip(*(words[i:] for i in range(SHINGLE)), strict=False))


def _side(key: str) -> str:
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    for split, share in SPLITS.items():
        if number < share:
            return split
        number -= share
    return "test"


def _count(parts: dict[str, list[Doc]], encoder: Path | None) -> dict[str, Any]:
    lines = {split: [*_lines(docs)] for split, docs in parts.items()}
    train_lines = set(lines["train"])
    counts: dict[str, Any] = {"splits": {}}
    for split, docs in parts.items():
        per_label = Counter(ent.label_ for doc in docs for ent in doc.ents)
        counts["splits"][split] = {
            "posts": len(docs),
            "tokens": sum(not token.is_space for doc in docs for token in doc),
            "spans": sum(per_label.values()),
            **{label: per_label[label] for label in sorted(per_label)},
        }
        if encoder is not None:
            counts["splits"][split]["windows"] = _count_windows(docs, encoder)
    known = sum(line in train_lines for line in lines["test"])
    counts["test_lines_in_train"] = round(known / max(len(lines["test"]), 1), 4)
    return counts


def _lines(docs: list[Doc]) -> Iterator[str]:
    for doc in docs:
        yield from (line.strip().casefold() for line in doc.text.splitlines() if line.strip())


def _count_windows(docs: list[Doc], encoder: Path) -> int:
    from transformers import AutoTokenizer

    config = load_config(Path("configs") / read_encoder(encoder)["config"])
    length = config["components"]["transformer"]["model"]["windows"]["length"]
    tokenizer = AutoTokenizer.from_pretrained(encoder, use_fast=True)
    limit, special = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    n_windows = 0
    for doc in docs:
        encoding = tokenizer.backend_tokenizer.encode(doc.text, add_special_tokens=False)
        tokens = np.array([(token.idx, token.idx + len(token)) for token in doc]).reshape(-1, 2)
        pieces = np.array(encoding.offsets, dtype="int64").reshape(-1, 2)
        windows = pack_lines(doc.text, pieces, tokens, length=length, limit=limit, special=special)
        n_windows += len(windows)
    return n_windows


def _print_report(counts: dict[str, Any]) -> None:
    splits = counts["splits"]
    table = Table("", *splits, "all")
    for name in dict.fromkeys(name for part in splits.values() for name in part):
        numbers = [part.get(name, 0) for part in splits.values()]
        table.add_row(name, *(f"{n:,}" for n in [*numbers, sum(numbers)]))
    Console().print(table)
    print(f"{counts['test_lines_in_train']:.1%} of the test lines also stand in train.")


if __name__ == "__main__":
    typer.run(convert_cli)
