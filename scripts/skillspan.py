"""The public SkillSpan corpus → corpora of one layer, and figures beside the published ones."""

import hashlib
import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.tokens import DocBin
from typer import Argument as Arg
from typer import Option as Opt

from scripts.convert import post_to_doc
from scripts.evaluate import load_pipeline, predict, score
from scripts.posts import Post, raise_problems, write_bytes, write_json

# Zhang et al. 2022, https://aclanthology.org/2022.naacl-main.366.
SHA256 = {
    "train.json": "5e884c3426087d14fc437d328eb72132082edbfe1e776292ae0e6e9b36c1e1f6",
    "dev.json": "3732937c6869fe191c749b4efe7ffd597ce84eea1192f09b7fe3bd1eb459e2b4",
}
LAYERS = {"knowledge": "KNOWLEDGE", "skill": "SKILL"}
# One post in ten of the train part chooses the epoch; the dev part is only scored.
HELD_OUT = 10
# Strict F1 on the test part, as published there (table 3 and 4).
PUBLISHED = {
    "knowledge": {"BERT-base": "61.7 to 63.9", "JobBERT": "65.4", "JobSpanBERT": "62.8"},
    "skill": {"BERT-base": "49.5 to 54.2", "JobBERT": "52.5", "JobSpanBERT": "52.2"},
}

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)
Layer = Annotated[str, Opt(help="knowledge or skill: they overlap, so each has its own model")]


@app.command("convert")
def convert_cli(
    source: Annotated[Path, Arg(help="SkillSpan's train.json")],
    output: Annotated[Path, Arg(help="Folder for train.spacy and dev.spacy")],
    layer: Layer = "knowledge",
) -> None:
    """Write the train part as corpora; one post in ten is held out to choose the epoch."""
    try:
        posts = read_skillspan(source, layer)
        sides: dict[str, list[Post]] = {"train": [], "dev": []}
        for i, post in enumerate(posts):
            sides["train" if i % HELD_OUT else "dev"].append(post)
        nlp = spacy.blank(
            "en", config={"nlp": {"tokenizer": {"@tokenizers": "skill_ner.Tokenizer.v1"}}}
        )
        for side, members in sides.items():
            docs = [post_to_doc(nlp, post) for post in members]
            raise_problems(members)
            corpus = DocBin(docs=docs, store_user_data=True).to_bytes()
            write_bytes(output / f"{side}.spacy", corpus)
            print(f"{side}: {len(docs)} posts, {sum(len(doc.ents) for doc in docs):,} spans")
    except (ValueError, OSError) as error:
        sys.exit(str(error))


@app.command("evaluate")
def evaluate_cli(
    pipeline: Annotated[str, Arg(help="Folder of the layer's pipeline")],
    part: Annotated[Path, Arg(help="SkillSpan's dev.json, or its test.json")],
    train: Annotated[Path, Opt(help="SkillSpan's train.json: sentences that are no test")] = Path(
        "assets/skillspan/train.json"
    ),
    layer: Layer = "knowledge",
    output: Annotated[Path | None, Opt(help="JSON file for the figures")] = None,
) -> None:
    """Score a layer's pipeline, and apart from it the sentences that do not stand in train."""
    try:
        gold, known = read_skillspan(part, layer), read_skillspan(train, layer)
        figures = evaluate(load_pipeline(pipeline), gold, known)
        figures |= {"layer": layer, "published_on_test": PUBLISHED[layer]}
        if output is not None:
            write_json(output, figures)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    for title, key in (("All sentences", "all"), ("Sentences not in train", "new")):
        print(f"{title}, layer {layer}: strict F1 {figures[key]['ents_f']:.4f}")
        scores = figures[key]
        print(
            f"  precision {scores['ents_p']:.4f}, recall {scores['ents_r']:.4f}, "
            f"{scores['spans']:,} spans"
        )
    print("Published, on the test part:", PUBLISHED[layer])


def read_skillspan(path: Path, layer: str) -> list[Post]:
    """Read posts as they are published: a JSON object a sentence, those of a post in sequence.

    A post's sentences become its lines, their words joined by blanks.

    path (Path): train.json, dev.json or test.json; of the first two the content is verified.
    layer (str): A key of LAYERS.
    RETURNS (list[Post]): The posts.
    RAISES (ValueError): Unknown layer, another content than published, or no such layout.
    """
    if layer not in LAYERS:
        raise ValueError(f"Unknown layer {layer!r}: expected one of {', '.join(LAYERS)}.")
    if not path.is_file():
        raise ValueError(f"{path}: not found, fetch it with `spacy project assets --extra`.")
    content = path.read_bytes()
    digest, expected = hashlib.sha256(content).hexdigest(), SHA256.get(path.name)
    if expected not in (None, digest):
        raise ValueError(
            f"{path}: SHA-256 {digest}, expected {expected}: not the published file, fetch it anew."
        )
    posts, rows = [], []
    for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append((row["source"], row["idx"], row["tokens"], row[f"tags_{layer}"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: no sentence of SkillSpan ({error!r}).") from None
    for (source, number), sentences in groupby(rows, key=lambda row: row[:2]):
        post = Post(meta={"id": f"{path.stem}-{source}-{number}"}, where=str(path))
        for *_, words, tags in sentences:
            _append(post, words, tags, LAYERS[layer])
        posts.append(post)
    return posts


def _append(post: Post, words: list[str], tags: list[str], label: str) -> None:
    post.text += "\n" if post.text else ""
    for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
        post.text += " " if i else ""
        start, end = len(post.text), len(post.text) + len(word)
        post.text += word
        if tag == "B" or (tag == "I" and (not i or tags[i - 1] == "O")):
            post.spans.append((start, end, label))
        elif tag == "I":
            post.spans[-1] = (post.spans[-1][0], end, label)


def evaluate(nlp: Any, gold: list[Post], train: list[Post]) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): Scores of all sentences, and of those that train lacks."""
    known = {line for post in train for line in post.text.split("\n")}
    predictions = list(predict(nlp, gold))
    figures = {"all": score(predictions)}
    for prediction in predictions:
        text = prediction.post.text
        fresh = [span for span in prediction.spans if _line(text, span[0]) not in known]
        wanted = [span for span in prediction.post.spans if _line(text, span[0]) not in known]
        prediction.spans = fresh
        prediction.post = Post(text, wanted, prediction.post.meta)
    new = score(predictions)
    lines = [line for post in gold for line in post.text.split("\n")]
    figures["new"] = {key: new[key] for key in ("ents_p", "ents_r", "ents_f", "spans")}
    figures["sentences"] = len(lines)
    figures["sentences_in_train"] = sum(line in known for line in lines)
    return figures


def _line(text: str, at: int) -> str:
    return text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0]


if __name__ == "__main__":
    app()
