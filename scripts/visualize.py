"""A pipeline and held-out posts → reports/*.html, gold beside predicted."""

import os
import re
import sys
import tempfile
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from textwrap import shorten
from typing import Any

import spacy
import typer
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from spacy import displacy
from spacy.language import Language
from tqdm import tqdm
from typer import Argument as Arg
from typer import Option as Opt

from scripts.evaluate import Prediction, load_pipeline, predict, read_corpus, read_gold
from scripts.posts import Post

COLORS = {
    "TECHNOLOGY": "#a6d4f5",
    "TECHNICAL": "#b5e2a8",
    "BUSINESS": "#fcd27f",
    "SOFT": "#f4b6d2",
}
OTHER_COLORS = ("#d8c9f7", "#a5e3db", "#e0d5b0", "#d3d6da")
# displaCy's own template has no place for a confidence, and adds spaces: "( Python )".
MARK = '<mark class="{state}" style="background: {bg}">{text} <small>{note}</small></mark>'
TITLE_LENGTH = 100
Span = tuple[int, int, str]
Notes = dict[Span, str]


def visualize_cli(
    pipeline: str = Arg("training/model-best", help="Folder or name of a loadable pipeline"),
    corpus: Path = Opt(Path("corpus/test.spacy"), help="Held-out posts as DocBin"),
    posts: Path | None = Opt(None, help="Annotated posts (JSONL) to show instead"),
    output: Path = Opt(Path("reports"), help="Folder for the pages; replaced as a whole"),
    limit: int = Opt(20, min=0, help="Most posts to show; 0: all"),
    gpu_id: int = Opt(-1, help="GPU to use; -1: the CPU"),
) -> None:
    """Draw the first posts, gold beside predicted, as pages that open without a network."""
    try:
        if gpu_id >= 0:
            spacy.require_gpu(gpu_id)
        nlp = load_pipeline(pipeline)
        gold = read_gold(posts) if posts else read_corpus(corpus, nlp)
        n_pages = visualize(nlp, gold, output, limit=limit)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{n_pages} of {len(gold)} posts in {output / 'index.html'}")


def visualize(nlp: Language, gold: list[Post], output: Path, *, limit: int = 0) -> int:
    """Write a page per post and an index.

    nlp (Language): Any pipeline that sets `doc.ents`.
    gold (list[Post]): Annotated posts.
    output (Path): Folder for the pages; one from an earlier run is replaced.
    limit (int): Most posts to show, from the first; 0: all.
    RETURNS (int): Posts shown.
    RAISES (ValueError): The folder holds other files than pages.
    """
    _check_output(output)
    shown = gold[:limit] if limit else gold
    predictions = list(tqdm(predict(nlp, shown), "posts", len(shown), disable=None))
    labels = {span[2] for p in predictions for span in [*p.post.spans, *p.spans]}
    colors = COLORS | dict(zip(sorted(labels - COLORS.keys()), cycle(OTHER_COLORS), strict=False))
    pages = [_make_page(p, f"post-{i:03}.html", colors) for i, p in enumerate(predictions, start=1)]
    # `select_autoescape` goes by the ending and would leave this template out.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = environment.get_template("page.html.jinja")
    name = f"{nlp.meta['lang']}_{nlp.meta['name']} {nlp.meta['version']}"
    common = {"pipeline": name, "colors": colors, "pages": pages, "n_posts": len(gold)}
    files = {"index.html": template.render(common, page=None)}
    for i, page in enumerate(pages):
        files[page["name"]] = template.render(common, page=page, i=i)
    _replace_folder(output.resolve(), files)
    return len(pages)


def _check_output(folder: Path) -> None:
    """Refuse to replace what is not from here, such as a folder named by mistake."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    if other := sorted(n for n in names if not re.fullmatch(r"(index|post-\d+)\.html", n)):
        raise ValueError(f"{folder}: would be replaced, yet holds {other[0]}; name another folder.")


def _make_page(prediction: Prediction, name: str, colors: dict[str, str]) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): What the template shows of a post."""
    text = prediction.post.text
    scores = zip(prediction.spans, prediction.confidences, strict=True)
    gold = {span: span[2] for span in prediction.post.spans}
    found = {s: s[2] if score is None else f"{s[2]} {score:.2f}" for s, score in scores}
    first = next((line for line in text.splitlines() if line.strip()), "(empty post)")
    return {
        "name": name,
        "title": shorten(first, TITLE_LENGTH, placeholder=" …"),
        "id": prediction.post.meta.get("id", ""),
        "n_gold": len(gold),
        "n_predicted": len(found),
        "n_right": len(gold.keys() & found),
        "gold": _draw(text, gold, found, colors),
        "predicted": _draw(text, found, gold, colors),
        "differences": _compare(text, gold, found),
    }


def _draw(text: str, notes: Notes, others: Notes, colors: dict[str, str]) -> Markup:
    """RETURNS (Markup): One side's spans with their notes, dashed if the other side lacks them."""
    ents = []
    for span in _drawable(text, notes):  # displaCy would repeat the words of overlapping spans
        start, end, label = span
        # displaCy escapes no label, and takes one colour for "Soft" and "SOFT".
        params = {"note": escape(notes[span]), "bg": colors[label]}
        params["state"] = "right" if span in others else "wrong"
        ents.append({"start": start, "end": end, "label": label, "params": params})
    # displaCy turns the line feed into a break; a browser takes the return for a second one.
    content = {"text": text.replace("\r\n", " \n"), "ents": ents}
    html = displacy.render(content, "ent", jupyter=False, options={"template": MARK}, manual=True)
    return Markup(html)


def _drawable(text: str, spans: Iterable[Span]) -> list[Span]:
    """RETURNS (list[Span]): Those in the text, of overlapping ones the longest."""
    chosen: list[Span] = []
    for span in sorted(spans, key=lambda s: (s[0] - s[1], s)):
        if 0 <= span[0] < span[1] <= len(text) and not any(_touch(span, s) for s in chosen):
            chosen.append(span)
    return chosen


def _touch(left: Span, right: Span) -> bool:
    return left[0] < right[1] and right[0] < left[1]


def _compare(text: str, gold: Notes, found: Notes) -> list[tuple[str, str, str]]:
    """RETURNS (list[tuple[str, str, str]]): Each mistake's kind, gold and predicted, in order."""
    missed, spurious = gold.keys() - found, found.keys() - gold
    pairs = [(g, f) for g in missed for f in spurious if _touch(g, f)]
    rows: list[tuple[str, Span | None, Span | None]] = [
        ("wrong label" if g[:2] == f[:2] else "wrong border", g, f) for g, f in pairs
    ]
    rows += [("missed", g, None) for g in missed - {g for g, _ in pairs}]
    rows += [("spurious", None, f) for f in spurious - {f for _, f in pairs}]
    rows += [("not drawn", g, None) for g in gold.keys() - _drawable(text, gold)]
    rows.sort(key=lambda row: (row[1] or row[2], row[2] or row[1]))

    def describe(span: Span | None, notes: Notes) -> str:
        return f"{text[span[0] : span[1]]} · {notes[span]}" if span else ""

    return [(kind, describe(g, gold), describe(f, found)) for kind, g, f in rows]


def _replace_folder(folder: Path, files: dict[str, str]) -> None:
    """Write a folder whole or not at all; nothing of an earlier one remains."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as partial:
        new = Path(partial) / "new"
        new.mkdir()
        for name, content in files.items():
            (new / name).write_text(content, encoding="utf-8")
        if folder.exists():
            os.replace(folder, Path(partial) / "old")
        os.replace(new, folder)


if __name__ == "__main__":
    typer.run(visualize_cli)
