"""A larger pipeline, the teacher → what it thinks of each word of our posts, for a smaller one."""

import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Corpus, Example
from spacy.util import ensure_path, registry
from tqdm import tqdm
from typer import Argument as Arg
from typer import Option as Opt

from scripts.evaluate import load_pipeline, read_corpus
from scripts.posts import Post, find_files, read_posts, write_bytes

# Probabilities are kept in a byte each, as whole 255ths.
SCALE = 255


def teach_cli(
    teacher: str = Arg("training/mpnet-best/model-best", help="Folder of the larger pipeline"),
    corpus: Path = Opt(Path("corpus/train.spacy"), help="Training posts as DocBin"),
    plain: Path = Opt(Path("assets/plain"), help="Posts without marks (JSONL)"),
    output: Path = Opt(Path("assets/teacher.npz"), help="File for the teacher's labels"),
    gpu_id: int = Opt(-1, help="GPU to use; -1: the CPU"),
) -> None:
    """Write how probable the teacher finds each tag for each token of the posts."""
    try:
        if gpu_id >= 0:
            spacy.require_gpu(gpu_id)
        nlp = load_pipeline(teacher)
        posts = [*read_corpus(corpus, nlp), *read_plain(plain)]
        arrays = {"labels": np.array(nlp.get_pipe("ner").labels)}
        for post, rows in tqdm(teach(nlp, posts), "posts", len(posts), disable=None):
            arrays[f"post:{post.id}"] = np.rint(SCALE * rows).astype("uint8")
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        write_bytes(output, file.getvalue())
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{output}: {len(posts):,} posts, {output.stat().st_size / 2**20:.1f} MiB")


def teach(nlp: Language, posts: list[Post]) -> Iterator[tuple[Post, np.ndarray]]:
    """Ask a pipeline.

    nlp (Language): A pipeline with our `transformer` and `ner`.
    posts (list[Post]): The posts.
    YIELDS (tuple[Post, np.ndarray]): Each post and the probabilities of its tokens' BIO tags.
        Shape: (n_tokens, n_tags).
    """
    ner = nlp.get_pipe("ner")
    for post, doc in zip(posts, nlp.pipe(post.text for post in posts), strict=True):
        logits = ner.model.ops.to_numpy(ner.model.predict([doc])[0])
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        yield post, weights / weights.sum(axis=1, keepdims=True)
        doc._.trf_data = None  # the hidden states of all posts would not fit


def read_plain(path: Path) -> list[Post]:
    """Read posts without marks.

    RAISES (ValueError): There is none, or one has marks.
    """
    posts = [post for file in find_files([path]) for post in read_posts(file)]
    for post in posts:
        if post.spans:
            raise ValueError(f"{post.where}: has marks, move the post to the annotated ones.")
    return posts


@registry.readers("skill_ner.TaughtCorpus.v1")
def create_taught_corpus(
    path: Path | None, teacher: Path | None, plain: Path | None
) -> Callable[[Language], Iterator[Example]]:
    """Read training posts with a teacher's labels beside their own, and posts that have no other.

    The teacher's rows stand in `user_data["teacher"]` of a reference (see `SkillNER.get_loss`).
    Where the posts have other labels than the teacher, they are read alone.

    path (Path | None): Annotated posts as DocBin.
    teacher (Path | None): What `scripts.teach` wrote; None for no teacher.
    plain (Path | None): The posts without marks.
    RETURNS (Callable[[Language], Iterator[Example]]): The reader.
    """

    def read(nlp: Language) -> Iterator[Example]:
        examples = [*Corpus(path)(nlp)]
        if teacher is not None:
            examples = _teach(nlp, examples, Path(teacher), ensure_path(plain))
        yield from examples

    return read


def _teach(
    nlp: Language, examples: list[Example], teacher: Path, plain: Path | None
) -> list[Example]:
    labels = {ent.label_ for example in examples for ent in example.reference.ents}
    with _open(teacher) as arrays:
        if sorted(labels) != arrays["labels"].tolist():
            return examples
        for post in read_plain(plain) if plain else []:
            doc = nlp.make_doc(post.text)
            doc.user_data["meta"] = post.meta
            examples.append(Example(nlp.make_doc(post.text), doc))
        for example in examples:
            _attach(example.reference, arrays, teacher)
    return examples


def _open(path: Path) -> np.lib.npyio.NpzFile:
    try:
        return np.load(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: no labels of a teacher ({error}), make them by `spacy project run teacher`."
        ) from None


def _attach(doc: Doc, arrays: np.lib.npyio.NpzFile, path: Path) -> None:
    key = f"post:{doc.user_data['meta']['id']}"
    if key not in arrays:
        return  # a post of the user's own
    rows = arrays[key].astype("float32")
    if len(rows) != len(doc):
        raise ValueError(
            f"{path}: {key[5:]!r} had {len(rows)} tokens and now has {len(doc)}: the post was "
            "changed, make the labels anew by `spacy project run teacher`."
        )
    doc.user_data["teacher"] = rows / rows.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    typer.run(teach_cli)
