"""A small real transformer on disk, posts that it can learn, and a pipeline trained on them."""

import json
import os
from pathlib import Path

# Before torch is imported, here and in processes that tests start: a small model gains nothing
# from threads, and two test runs on one machine would wait for each other's.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.training import Example
from spacy.util import load_config
from thinc.api import Adam, fix_random_seed
from transformers import BertConfig, BertModel, BertTokenizerFast

import scripts.skill_ner  # noqa: F401 (registers the components)

ROOT = Path(__file__).parent.parent
WORDS = """senior engineer we need python and sql strong communication skills or machine learning
experience with aws a plus data team work in our the of to pandas spark java excel you will build
dashboards lead stakeholders for company is node js net c + # / - . , ; : ( ) ' ! ? • ci cd b test
testing scikit learn apply now great benefits pay location remote"""
TEXTS = [
    ("We need Python and SQL.\nStrong communication skills.", ["Python", "SQL"], ["communication"]),
    ("Senior Python engineer\nmachine learning experience, AWS a plus", ["Python", "AWS"], []),
    ("You will build dashboards in Excel.\nStrong communication", ["Excel"], ["communication"]),
    ("Our data team work in Spark and Java.\nApply now", ["Spark", "Java"], []),
]


def make_post(text: str, tools: list[str], soft: list[str], name: str) -> dict:
    """One annotated post in the project's JSONL layout."""
    spans = [
        {"start": text.index(s), "end": text.index(s) + len(s), "label": label}
        for surfaces, label in ((tools, "TECHNOLOGY"), (soft, "SOFT"))
        for s in surfaces
    ]
    return {"text": text, "spans": sorted(spans, key=lambda s: s["start"]), "meta": {"id": name}}


POSTS = [make_post(*text, f"post{i}") for i, text in enumerate(TEXTS)]


def write_posts(path: Path, posts: list[dict]) -> Path:
    """Write posts as JSONL."""
    path.write_text("".join(json.dumps(post) + "\n" for post in posts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BERT with two layers, in the layout of `scripts.encoder`."""
    path = tmp_path_factory.mktemp("assets") / "encoder"
    path.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [f"{mark}{chr(c)}" for c in range(ord("a"), ord("z") + 1) for mark in ("", "##")]
    vocab = list(dict.fromkeys([*special, *WORDS.split(), *letters, *map(str, range(10))]))
    (path / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(path / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(path)
    record = {"requested": "tiny", "name": "tiny", "origin": "tiny", "source": "folder"}
    record |= {"revision": None, "licence": None, "config": "minilm.cfg"}
    record |= {"fallback": None, "files": {}}
    (path / "encoder.json").write_text(json.dumps(record), encoding="utf-8")
    return path


def make_nlp(encoder: Path, **overrides: object) -> Language:
    """The shipped pipeline on the small encoder, not yet initialised; unmasked, all spans kept."""
    overrides = {"transformer__model__masking": 0.0, "ner__threshold": 0.0} | overrides
    settings = {f"components.{name.replace('__', '.')}": value for name, value in overrides.items()}
    config = load_config(
        ROOT / "configs" / "minilm.cfg",
        {"paths.encoder": str(encoder), **settings},
        interpolate=True,
    )
    return spacy.util.load_model_from_config(config)


def make_examples(nlp: Language, posts: list[dict] = POSTS) -> list[Example]:
    """Training examples of annotated posts."""
    return [
        Example.from_dict(
            nlp.make_doc(post["text"]),
            {"entities": [(s["start"], s["end"], s["label"]) for s in post["spans"]]},
        )
        for post in posts
    ]


def overfit(nlp: Language, steps: int = 60) -> Language:
    """Train until the posts are known by heart."""
    fix_random_seed(0)
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples, sgd=Adam(0.003))
    for _ in range(steps):
        nlp.update(make_examples(nlp), sgd=optimizer)
    return nlp


@pytest.fixture(scope="session")
def trained(encoder: Path) -> Language:
    """A pipeline that knows POSTS by heart; tests must not alter it."""
    return overfit(make_nlp(encoder))


def found(doc: spacy.tokens.Doc) -> list[tuple[int, int, str]]:
    """A doc's entities by characters."""
    return [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]


def gold(post: dict) -> list[tuple[int, int, str]]:
    """A post's spans in the same form."""
    return [(s["start"], s["end"], s["label"]) for s in post["spans"]]
