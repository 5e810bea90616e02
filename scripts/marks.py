"""Text with inline marks, `[[surface|X]]` ↔ annotated posts."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument as Arg
from typer import Option as Opt

from scripts.posts import (
    Post,
    format_posts,
    raise_errors,
    read_fit,
    read_posts,
    write_bytes,
)

LETTERS = {"T": "TECHNOLOGY", "K": "TECHNICAL", "B": "BUSINESS", "S": "SOFT"}
_MARK = re.compile(r"\[\[((?:(?!\[\[|]]).)*)\|((?:(?!\[\[|]])[^|\n])*)]]")

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command("to-posts")
def to_posts_cli(
    marked: Annotated[Path, Arg(help="Text with marks; each post opens with a line `=== id`")],
    output: Annotated[Path, Arg(help="JSONL file to write")],
    meta: Annotated[Path | None, Opt(help="Meta by id: older posts, or .tsv (id, spec)")] = None,
    pairs: Annotated[list[str] | None, Opt("--set", help="KEY=VALUE for every post's meta")] = None,
) -> None:
    """Turn text with marks into annotated posts."""
    with _plain_errors():
        posts = parse_marks(_read(marked), str(marked))
        known = read_meta(meta) if meta else {}
        if bad := [pair for pair in pairs or [] if not re.match("[^=]+=", pair)]:
            raise ValueError(f"--set {bad[0]!r}: expected KEY=VALUE.")
        constants = dict(pair.split("=", 1) for pair in pairs or [])
        for post in posts:
            post.meta = {"id": post.id} | known.get(post.id, {}) | constants
        write_bytes(output, format_posts(posts).encode())
    counts = Counter(label for post in posts for _, _, label in post.spans)
    print(f"{len(posts)} posts, {counts.total()} spans:", dict(counts.most_common()))
    if new := [post.id for post in posts if meta and post.id not in known]:
        print(f"Without an entry in {meta}: {', '.join(new)}")


@app.command("to-marks")
def to_marks_cli(
    posts: Annotated[Path, Arg(help="JSONL file of annotated posts")],
    output: Annotated[Path, Arg(help="Text file to write")],
) -> None:
    """Turn annotated posts into text with marks, to be edited; of the meta only the id is kept."""
    with _plain_errors():
        write_bytes(output, format_marks(read_fit(posts)).encode())


def parse_marks(marked: str, where: str) -> list[Post]:
    """Read posts, without meta, from text with marks. Outer blank lines are no part of a post.

    marked (str): Posts, each opened by a line `=== id`.
    where (str): Name of the file, for the messages.
    RAISES (ValueError): All errors, a line each, with file, line and surface.
    """
    head, *blocks = re.split(r"^(?====)", marked.replace("\r\n", "\n"), flags=re.MULTILINE)
    number, errors, posts = 1 + head.count("\n"), [], {}
    if head.strip() or not blocks:
        line = 1 + head[: len(head) - len(head.lstrip())].count("\n")
        errors.append(f"{where}:{line}: {head.strip()[:40]!r}: expected a line `=== id` above it.")
    for block in blocks:
        title = block.partition("\n")[0]
        post = Post(meta={"id": title[3:].strip()}, where=f"{where}:{number}")
        if not re.match(r"=== +\S", title) or post.id in posts:
            errors.append(f"{post.where}: {title!r}: expected `=== id` with an id of its own.")
        errors += [f"{where}:{number + line}: {fault}" for line, fault in _fill(post, block)]
        posts[post.id] = post
        number += block.count("\n")
    raise_errors(errors)
    return [*posts.values()]


def _fill(post: Post, block: str) -> Iterator[tuple[int, str]]:
    """Give a post the text and spans of its block; yield what is wrong, by line below its id."""
    blank, body = re.fullmatch(r"[^\n]*(\s*\n)?(.*?)(?:\n\s*)?", block, re.DOTALL).groups("")
    if not body.strip():
        yield 0, f"post {post.id!r} has no text, write some or remove its id."
    done = 0
    for mark in _MARK.finditer(body):
        line, (surface, label) = (blank + body[: mark.start()]).count("\n"), mark.groups()
        post.text += body[done : mark.start()]
        start, done = len(post.text), mark.end()
        post.text += surface
        post.spans.append((start, len(post.text), LETTERS.get(label, label)))
        if not surface or surface != surface.strip():
            yield line, f"{mark[0]!r}: empty, or white space at a border: mark the words alone."
        if label not in LETTERS and not re.fullmatch(r"\w[\w-]+", label):
            yield line, f"{surface!r}: unknown label {label!r}, expected T, K, B, S or a full name."
    post.text += body[done:]
    # Brackets that belong to no mark, and carriage returns that end no line.
    rest = _MARK.sub(lambda mark: "_" * len(mark[0]), body)
    for stray in re.finditer(r"\[\[|]]|\r", rest):
        line = (blank + body[: stray.start()]).count("\n")
        found = "".join(_around(body, *stray.span()))
        yield line, f"{found!r}: {stray[0]!r} unclosed, stray or nested: write [[surface|X]]."


def read_meta(path: Path) -> dict[str, dict[str, Any]]:
    """Read meta by id, from older posts or from lines of id, tab and spec."""
    if path.suffix != ".tsv":
        return {post.id: post.meta for post in read_posts(path)}
    meta, errors = {}, []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        name, tab, spec = line.partition("\t")
        if not tab or name in meta:
            errors.append(f"{path}:{number}: {line!r}: expected an id of its own, a tab, a spec.")
        meta[name] = {"role": spec.split(",")[0], "spec": spec}
    raise_errors(errors)
    return meta


def format_marks(posts: Iterable[Post]) -> str:
    """Write posts as text with marks, which `parse_marks` reads as the same ids, texts, spans.

    RAISES (ValueError): All posts that marks cannot represent, each with file and line.
    """
    blocks, errors, ids = [], [], set()
    letters = {label: letter for letter, label in LETTERS.items()}
    for post in posts:
        marked = post.text
        for start, end, label in reversed(post.spans):
            mark = f"[[{marked[start:end]}|{letters.get(label, label)}]]"
            marked = marked[:start] + mark + marked[end:]
        blocks.append(f"=== {post.id}\n{marked}\n")
        if fault := "its id stands twice" if post.id in ids else _block_fault(post, blocks[-1]):
            errors.append(f"{post.where}: post {post.id!r}: {fault}; correct the post.")
        ids.add(post.id)
    raise_errors(errors)
    return "\n".join(blocks)


def _block_fault(post: Post, block: str) -> str:
    borders = [border for start, end, _ in post.spans for border in (start, end)]
    if borders != sorted(borders):
        return "its spans overlap"
    if re.search("^===", post.text, re.MULTILINE):
        return "marks cannot represent a line that begins with `===`"
    try:
        back = parse_marks(block, "its marks")
    except ValueError as error:
        return "marks cannot represent it: " + str(error).replace("\n", " ")
    if [(post.id, post.text, post.spans)] != [(post.id, post.text, post.spans) for post in back]:
        return (
            "marks would change it: it has a carriage return, blank lines around it, white space "
            "around its id, a bracket at a span's border, or a label that is one letter"
        )
    return ""


def _around(text: str, start: int, end: int) -> tuple[str, str, str]:
    before = text[max(start - 40, 0) : start].rpartition("\n")[2]
    return before, text[start:end], text[end : end + 40].partition("\n")[0]


def _read(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8 ({error.reason}), save it as UTF-8.") from None


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}, check the path.")


if __name__ == "__main__":
    app()
