"""Annotated posts: the JSONL layout that the project's files share, read and checked."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN_ERRORS = 30


@dataclass
class Post:
    """One annotated post.

    spans (list[tuple[int, int, str]]): Start and end character (exclusive) and label, sorted.
    where (str): File and line that it comes from.
    problems (list[str]): Why it is unfit for training.
    """

    text: str = ""
    spans: list[tuple[int, int, str]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """RETURNS (str): The post's id."""
        return str(self.meta["id"])


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Resolve folders to the JSONL files in them, in the order of their names.

    RAISES (ValueError): A path does not exist, or a folder holds no JSONL file.
    """
    files = []
    for path in paths:
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise ValueError(f"{path}: no annotated posts here, name a JSONL file or their folder.")
        files += found
    return files


def read_posts(path: Path) -> list[Post]:
    """Read annotated posts, one JSON object a line, in Prodigy's layout.

    path (Path): A JSONL file in UTF-8.
    RETURNS (list[Post]): The posts; blank lines are skipped.
    RAISES (ValueError): A line is not UTF-8, not JSON or not a post; all such lines are named.
    """
    posts, errors = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            posts.append(_parse(line.decode("utf-8"), where))
        except UnicodeDecodeError as error:
            errors.append(f"{where}: byte {error.start + 1} is not UTF-8, save the file as UTF-8.")
        except json.JSONDecodeError as error:
            errors.append(f"{where}: invalid JSON at column {error.colno} ({error.msg}).")
        except ValueError as error:
            errors.append(f"{where}: {error}")
    raise_errors(errors)
    if not posts:
        raise ValueError(f"{path}: no post in this file, expected one JSON object a line.")
    return posts


def read_fit(path: Path) -> list[Post]:
    """Read annotated posts that are fit for training, from a file or a folder of files.

    RAISES (ValueError): There is none, or what is unfit, each with file and line.
    """
    posts = [post for file in find_files([path]) for post in read_posts(file)]
    check_posts(posts)
    return posts


def _parse(line: str, where: str) -> Post:
    record = json.loads(line.removeprefix("\ufeff"))
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError('expected an object with "text", see assets/README.md for the layout.')
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can write it ("\\ud83d"), UTF-8 can't
        raise ValueError("half of a surrogate pair is no text, remove it.") from None
    meta = record.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError(f'expected "meta" as an object, found {meta!r}.')
    meta = {**meta, "id": str(meta.get("id", where))}
    spans, found = [], record.get("spans") or []
    if not isinstance(found, list):
        raise ValueError(f'expected "spans" as a list, found {found!r}.')
    for span in found:
        try:
            start, end, label = span["start"], span["end"], span["label"]
        except (TypeError, KeyError):
            raise ValueError(
                f'expected a span with "start", "end", "label", found {span!r}.'
            ) from None
        if type(start) is not int or type(end) is not int or not isinstance(label, str):
            raise ValueError(f"expected whole numbers and a label in a span, found {span!r}.")
        spans.append((start, end, label))
    return Post(record["text"], sorted(spans), meta, where)


def check_posts(posts: list[Post], labels: Iterable[str] = ()) -> None:
    """Refuse spans that can't be learned, and ids that stand twice.

    RAISES (ValueError): All problems, each with file, line and span.
    """
    labels, seen = set(labels), {}
    for post in posts:
        if post.id in seen:
            post.problems.append(f"id {post.id!r} stands at {seen[post.id]} already, rename one.")
        seen.setdefault(post.id, post.where)
        for i, (start, end, label) in enumerate(post.spans):
            surface = post.text[max(start, 0) : max(end, 0)]
            problem = _span_problem(post.text, start, end)
            if not problem and (not label or (labels and label not in labels)):
                problem = f"unknown label, expected one of {', '.join(sorted(labels)) or 'some'}"
            if not problem and i and start < post.spans[i - 1][1]:
                problem = "overlaps the span before it"
            if problem:
                post.problems.append(f"span {start}-{end} {label} {surface!r}: {problem}.")
    raise_problems(posts)


def _span_problem(text: str, start: int, end: int) -> str:
    surface = text[max(start, 0) : max(end, 0)]
    if not 0 <= start <= end <= len(text):
        return f"out of range, the text has {len(text)} characters"
    if start == end:
        return "empty"
    if surface != surface.strip():
        return "begins or ends in white space, leave it out"
    if "\n" in surface or "\r" in surface:
        return "crosses a line break, cut it there"
    return ""


def format_posts(posts: Iterable[Post]) -> str:
    """RETURNS (str): Posts as JSONL, in Prodigy's layout."""
    lines = []
    for post in posts:
        spans = [{"start": start, "end": end, "label": label} for start, end, label in post.spans]
        record = {"text": post.text, "spans": spans, "meta": post.meta}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)


def raise_problems(posts: list[Post]) -> None:
    """RAISES (ValueError): The posts' problems, each with file and line, if there are any."""
    raise_errors([f"{post.where}: {problem}" for post in posts for problem in post.problems])


def raise_errors(errors: list[str]) -> None:
    """RAISES (ValueError): The first of the errors and the number of the rest, if there are any."""
    if errors:
        more = len(errors) - SHOWN_ERRORS
        note = [f"... and {more} more."] if more > 0 else []
        raise ValueError("\n".join([*errors[:SHOWN_ERRORS], *note]))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, json.dumps(content, indent=2).encode() + b"\n")
