"""Our posts beside real ones → how far apart they are, and what either has copied."""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from typer import Argument as Arg
from typer import Option as Opt

from scripts.convert import near_duplicates
from scripts.posts import Post, find_files, read_posts, write_json

# Limits for text of our own: a longer sentence in more posts is a frame, a longer run a copy.
SENTENCE_WORDS, SENTENCE_POSTS, RUN_WORDS, DUPLICATE_SHARE = 8, 3, 12, 0.005
# Sentences that the law or habit words for every employer, so that they are no sign of copying.
FORMULA = re.compile(
    r"equal[ -](employment )?opportunit|regardless of|without regard|\brace\b|protected veteran|"
    r"veteran status|gender identity|sexual orientation|disabilit|reasonable accommodation|"
    r"e-verify|affirmative action|criminal histor|(arrest|conviction) records|fair chance|"
    r"background check|security investigation|authorized to work|entitled to work|right to work|"
    r"all qualified applicants|sponsorship|not (intended|designed) to|general nature and level|"
    r"other duties|duties of this job|aspects of employment|terms and conditions of employment|"
    r"sedentary|lift up to|equivalent combination of education|shortlisted|"
    r"selected for an interview",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+(?:['’.+#&-]+\w+)*[+#]*")


def distance_cli(
    ours: Path = Arg(..., help="Our posts: a JSONL file, or a folder of them"),
    theirs: Path = Arg(..., help="Posts to be like; annotation is used where they have it"),
    shown: int = Opt(10, help="Repeated sentences and common runs to print"),
    output: Path | None = Opt(None, help="JSON file for the figures; holds none of their text"),
    strict: bool = Opt(False, "--strict", help="Exit with 1 if a limit is passed"),
) -> None:
    """Compare lengths, layout, vocabulary and repetition, and look for copied text."""
    try:
        sides = [
            [post for file in find_files([path]) for post in read_posts(file)]
            for path in (ours, theirs)
        ]
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    figures = {name: describe(side) for name, side in zip(("ours", "theirs"), sides, strict=True)}
    compare(figures, *sides)
    frames, runs = repeated_sentences(sides[0]), common_runs(*sides)
    limits = check_limits(figures["ours"], frames, runs)
    _print(figures, frames[:shown], runs[:shown])
    for name, (found, allowed) in limits.items():
        print(f"{'ok  ' if found <= allowed else 'OVER'} {name}: {found:g}, at most {allowed:g}")
    if output is not None:
        numbers = {name: found for name, (found, _) in limits.items()}
        write_json(output, figures | {"limits": numbers})
    if strict and any(found > allowed for found, allowed in limits.values()):
        raise typer.Exit(1)


def describe(posts: list[Post]) -> dict[str, float]:
    """RETURNS (dict[str, float]): Figures of one side; shares in per cent."""
    words = [len(post.text.split()) for post in posts]
    lines = [line for post in posts for line in post.text.split("\n") if line.strip()]
    per_line = [len(line.split()) for line in lines]
    figures: dict[str, float] = {"posts": len(posts), "words": sum(words)}
    for at in (5, 10, 25, 50, 75, 90, 95):
        figures[f"words a post, {at} %"] = round(float(np.percentile(words, at)))
    figures["lines a post, mean"] = round(len(lines) / len(posts), 1)
    figures["words a line, mean"] = round(float(np.mean(per_line)), 1)
    figures["words a line, median"] = float(np.median(per_line))
    figures["lines in capitals, %"] = _percent(sum(line.isupper() for line in lines), len(lines))
    figures["posts with near-duplicate, %"] = _percent(
        len({k for i, like in enumerate(near_duplicates(posts)) for k in (i, *like) if like}),
        len(posts),
    )
    return figures | _describe_spans(posts, sum(words), len(lines))


def _describe_spans(posts: list[Post], n_words: int, n_lines: int) -> dict[str, float]:
    labels = Counter(label for post in posts for _, _, label in post.spans)
    if not labels:
        return {}
    inside = sum(len(post.text[a:b].split()) for post in posts for a, b, _ in post.spans)
    marked = {
        (i, post.text.count("\n", 0, a)) for i, post in enumerate(posts) for a, _, _ in post.spans
    }
    figures = {
        "spans": float(labels.total()),
        "spans in 100 words": round(100 * labels.total() / n_words, 1),
        "words in spans, %": _percent(inside, n_words),
        "lines without a span, %": _percent(n_lines - len(marked), n_lines),
    }
    for label, count in sorted(labels.items()):
        figures[f"spans {label}, %"] = _percent(count, labels.total())
    return figures


def compare(figures: dict[str, dict[str, float]], *sides: list[Post]) -> None:
    """Add what depends on the amount of text, from as many words of each side, and on the other.

    figures (dict[str, dict[str, float]]): Figures of "ours" and "theirs", in the order of `sides`.
    """
    streams = [[word for post in side for word in _words(post.text)] for side in sides]
    size = min(map(len, streams))
    samples = [stream[:size] for stream in streams]
    for name, sample in zip(figures, samples, strict=True):
        for n in (1, 2, 3):
            grams = zip(*(sample[i:] for i in range(n)), strict=False)
            figures[name][f"distinct runs of {n}, % of {size:,} words"] = _percent(
                len(set(grams)), size
            )
    for name, stream, other in zip(figures, streams, streams[::-1], strict=True):
        known = set(other)
        figures[name]["words the other side lacks, %"] = _percent(
            sum(word not in known for word in stream), len(stream)
        )


def repeated_sentences(posts: list[Post]) -> list[tuple[str, list[str]]]:
    """Sentences of more than SENTENCE_WORDS words in more than one post, formulas aside.

    RETURNS (list[tuple[str, list[str]]]): Sentence and ids of its posts, most posts first.
    """
    holders: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for post in posts:
        for sentence in _sentences(post.text):
            words = tuple(_words(sentence))
            if len(words) > SENTENCE_WORDS:
                holders[words].setdefault(post.id, sentence)
    repeated = [
        (next(iter(found.values())), list(found)) for found in holders.values() if len(found) > 1
    ]
    return sorted(repeated, key=lambda item: -len(item[1]))


def common_runs(ours: list[Post], theirs: list[Post]) -> list[tuple[str, str]]:
    """Runs of RUN_WORDS words or more that stand on both sides, formulas aside.

    RETURNS (list[tuple[str, str]]): Id of our post and the run, longest first.
    """
    known = {gram for post in theirs for gram in _grams(_words(post.text))}
    runs = []
    for post in tqdm(ours, "runs", disable=None):
        words = [word for sentence in _sentences(post.text) for word in _words(sentence)]
        end = start = -1
        for i, gram in enumerate(_grams(words)):
            if gram not in known:
                continue
            if i > end - RUN_WORDS + 1 and start >= 0:
                runs.append((post.id, " ".join(words[start:end])))
                start = -1
            start = i if start < 0 else start
            end = i + RUN_WORDS
        if start >= 0:
            runs.append((post.id, " ".join(words[start:end])))
    return sorted(runs, key=lambda run: -len(run[1]))


def check_limits(
    ours: dict[str, float], frames: list[tuple[str, list[str]]], runs: list[tuple[str, str]]
) -> dict[str, tuple[float, float]]:
    """RETURNS (dict[str, tuple[float, float]]): What was found and what is allowed, by name."""
    over = sum(len(ids) > SENTENCE_POSTS for _, ids in frames)
    return {
        f"sentences of more than {SENTENCE_WORDS} words in more than {SENTENCE_POSTS} posts": (
            over,
            0,
        ),
        "near-duplicate posts, %": (
            ours["posts with near-duplicate, %"],
            100 * DUPLICATE_SHARE,
        ),
        f"runs of {RUN_WORDS} words from their posts": (len(runs), 0),
    }


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _grams(words: list[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(RUN_WORDS)), strict=False)


def _sentences(text: str) -> Iterator[str]:
    """The sentences of a post but for formulas; a line break ends one."""
    for sentence in re.split(r"\n|(?<=[.!?;])\s", text):
        if sentence.strip() and not FORMULA.search(sentence):
            yield sentence


def _percent(part: float, whole: float) -> float:
    return round(100 * part / max(whole, 1), 1)


def _print(
    figures: dict[str, Any], frames: list[tuple[str, list[str]]], runs: list[tuple[str, str]]
) -> None:
    table = Table("", *figures)
    for key in dict.fromkeys(key for side in figures.values() for key in side):
        cells = (f"{side[key]:,g}" if key in side else "-" for side in figures.values())
        table.add_row(key, *cells)
    Console().print(table)
    for sentence, ids in frames:
        print(f"in {len(ids)} posts ({', '.join(ids[:6])}): {sentence.strip()[:150]}")
    for name, run in runs:
        print(f"{name} has a run of theirs: {run[:150]}")


if __name__ == "__main__":
    typer.run(distance_cli)
