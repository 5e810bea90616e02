"""Windows of whole lines: nothing lost, nothing cut that fits, read as the encoder reads it."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import POSTS, make_examples, make_nlp
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc
from transformers import AutoModel, AutoTokenizer

from scripts.skill_ner.transformer import window_spans
from scripts.skill_ner.windows import create_line_windows, pack_lines

LIMIT, SPECIAL = 20, 2
URL = "qq.de/" + "q/" * 40 + "q"
Offsets = list[tuple[int, int]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Torch's threads cost more than they give on a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def nlp(encoder: Path) -> Language:
    """An untrained pipeline: the encoder's part is complete."""
    nlp = make_nlp(encoder)
    nlp.initialize(lambda: make_examples(nlp))
    return nlp


def cut(text: str, size: int = 2) -> tuple[Offsets, Offsets]:
    """Pieces of at most `size` characters, and tokens: runs of word characters, single signs."""
    tokens = [match.span() for match in re.finditer(r"\w+|[^\w\s]|\s+", text)]
    words = [(a, b) for a, b in tokens if text[a:b].strip()]
    return [(i, min(i + size, b)) for a, b in words for i in range(a, b, size)], tokens


def pack(text: str, length: int, size: int = 2) -> list[str]:
    """The text of each window, from its first piece to its last."""
    pieces, tokens = cut(text, size)
    windows = pack_arrays(text, pieces, tokens, length)
    return [text[pieces[a][0] : pieces[b - 1][1]] if a < b else "" for a, b in windows]


def pack_arrays(text: str, pieces: Offsets, tokens: Offsets, length: int) -> list[list[int]]:
    return pack_lines(
        text,
        np.array(pieces, dtype="int64").reshape(-1, 2),
        np.array(tokens, dtype="int64").reshape(-1, 2),
        length=length,
        limit=LIMIT,
        special=SPECIAL,
    ).tolist()


@pytest.mark.parametrize(
    ("text", "length", "windows"),
    [
        # A piece a word (size 9), two special tokens: a window of 6 has room for four words.
        ("", 6, []),
        (" \n\t", 6, [""]),
        ("a b c d", 6, ["a b c d"]),
        ("a b\nc d\ne f", 6, ["a b\nc d", "e f"]),
        ("a b\nc d e\nf", 6, ["a b", "c d e\nf"]),
        ("a\n\n\nb\nc d", 6, ["a\n\n\nb\nc d"]),
        ("\n\na b c\n\nd e\n", 6, ["a b c", "d e"]),
        # Longer than a window: at the end of a sentence, a clause, between words, in like parts.
        ("a b. c d e", 6, ["a b.", "c d e"]),
        ("a, b c d e", 6, ["a,", "b c d e"]),
        ("a, b. c d", 6, ["a, b.", "c d"]),
        ("a b c d e f", 6, ["a b c", "d e f"]),
        ("a b c d e", 6, ["a b c", "d e"]),
        # A part of a cut line and the next line share a window; the line before does not.
        ("x\na b c d e\ny", 6, ["x", "a b c", "d e\ny"]),
        # Signs are tokens: without a blank the cut falls between two of them.
        ("a/b/c/d", 6, ["a/b/", "c/d"]),
        ("a b/c d", 6, ["a b/c", "d"]),
    ],
)
def test_packing(text: str, length: int, windows: list[str]) -> None:
    assert pack(text, length, size=9) == windows


@pytest.mark.parametrize(
    ("text", "length", "windows"),
    [
        # Pieces of two characters: 6 has room for four pieces, the limit of 20 for eighteen.
        ("a" * 8, 6, ["a" * 8]),
        ("a" * 10, 6, ["a" * 10]),
        ("b c " + "a" * 20 + " d e", 6, ["b c", "a" * 20, "d e"]),
        ("b\n" + "a" * 20 + "\nd", 6, ["b", "a" * 20, "d"]),
        ("a" * 36, 6, ["a" * 36]),
        ("b " + "a" * 38 + " c d", 6, ["b", "a" * 36, "aa c d"]),
        ("b c " + "a" * 24, 14, ["b c", "a" * 24]),
        ("a" * 80, 6, ["a" * 36, "a" * 36, "a" * 8]),
    ],
)
def test_a_token_longer_than_a_window(text: str, length: int, windows: list[str]) -> None:
    assert pack(text, length) == windows


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 wordpieces, found 2: raise `length`"):
        create_line_windows(2)


WORDS = st.sampled_from(["a", "bc.", "data,", "skills", "é", "🙂", "x/y/z", "w" * 11, "w" * 50])
BREAKS = st.sampled_from([" ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", ""])
TEXTS = st.one_of(
    st.lists(st.one_of(WORDS, BREAKS), max_size=60).map("".join), st.text(max_size=80)
)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, length=st.integers(3, 30), size=st.integers(1, 4))
def test_every_piece_once_and_no_window_too_long(text: str, length: int, size: int) -> None:
    pieces, tokens = cut(text, size)
    windows = pack_arrays(text, pieces, tokens, length)
    assert [i for a, b in windows for i in range(a, b)] == list(range(len(pieces)))
    assert all(a < b for a, b in windows) or not pieces
    assert windows == pack_arrays(text, pieces, tokens, length)
    room = min(length, LIMIT) - SPECIAL
    owner = np.searchsorted([a for a, _ in tokens], [a for a, _ in pieces], side="right")
    n_pieces = np.bincount(owner) if pieces else []
    starts = {0, *(i for i, (a, b) in enumerate(pairwise(pieces), 1) if "\n" in text[a[1] : b[0]])}
    lines = np.diff([*sorted(starts), len(pieces)])
    for a, b in windows:
        assert b - a <= LIMIT - SPECIAL
        if b - a > room:
            assert len(set(owner[a:b])) == 1
        if 0 < a < len(pieces) and owner[a - 1] == owner[a]:
            assert n_pieces[owner[a]] > LIMIT - SPECIAL
    if (lines <= room).all():
        assert {a for a, _ in windows} <= starts
        # Greedy: the next line would not have fitted.
        for (a, b), (_, _) in pairwise(windows):
            assert min(s for s in [*starts, len(pieces)] if s > b) - a > room


LINES = st.lists(st.sampled_from([post["text"] for post in POSTS] + ["", "  C++, é 🙂.", "•SQL"]))


@settings(max_examples=40, deadline=None)
@given(lines=LINES, glue=st.sampled_from(["\n", "\n\n", "\r\n", "\n \n"]))
def test_spans_of_windows_hold_every_token_once(nlp: Language, lines: list[str], glue: str) -> None:
    model = nlp.get_pipe("transformer").model
    doc = nlp.make_doc("We\n" + glue.join(lines))
    spans = window_spans(model, doc)
    assert [token.i for span in spans for token in span] == list(range(len(doc)))
    for span in spans:
        assert [len(s) for s in window_spans(model, span.as_doc())] == [len(span)]


def test_spans_of_windows_that_cut_lines_and_tokens(nlp: Language) -> None:
    model = nlp.get_pipe("transformer").model
    # The encoder reads 62 pieces beside its two special tokens; the address has 87.
    texts = [URL, f"We {URL} we", "Python and " * 50, "Python\n" * 100]
    found = [[len(s) for s in window_spans(model, nlp.make_doc(text))] for text in texts]
    assert found == [[1], [1, 2], [50, 50], [124, 76]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n", [(0, 1)]),
    ],
)
def test_spans_of_a_post_without_words(
    nlp: Language, text: str, expected: list[tuple[int, int]]
) -> None:
    spans = window_spans(nlp.get_pipe("transformer").model, nlp.make_doc(text))
    assert [(span.start, span.end) for span in spans] == expected


def pieces_of(doc: Doc) -> list[tuple[str, list[str]]]:
    """Each token and the names of its wordpieces, as other components would find them."""
    data = doc._.trf_data
    names = np.array(data.wordpieces.strings).reshape(-1)
    ends = np.cumsum(data.align.lengths)
    rows = np.split(data.align.dataXd.reshape(-1), ends[:-1])
    return [(token.text, names[row].tolist()) for token, row in zip(doc, rows, strict=True)]


ALIGNED = [
    ("Python", ["python"]),
    (",", [","]),
    ("  ", []),
    ("Café", ["c", "##a", "##f", "##e"]),
    ("\n", []),
    ("C++", ["c", "+", "+"]),
    ("🙂", ["[UNK]"]),
    ("\u200b", []),
    ("scikit", ["scikit"]),
    ("-", ["-"]),
    ("learn", ["learn"]),
    ("!", ["!"]),
]


def test_each_token_has_its_own_wordpieces(nlp: Language) -> None:
    short = "Python,   Café\nC++ 🙂 \u200b scikit-learn!"
    long = "\n".join(post["text"] for post in POSTS * 5) + " " + URL
    for batch in ([short], [long, short, ""], ["", short, long]):
        docs = dict(zip(batch, nlp.pipe(batch, batch_size=3), strict=True))
        assert pieces_of(docs[short]) == ALIGNED
        if long in docs:
            aligned = pieces_of(docs[long])
            strings = [
                (token, "".join(p.removeprefix("##") for p in row)) for token, row in aligned
            ]
            assert strings == [(token, token.lower().strip()) for token, _ in aligned]
            assert len(docs[long]._.trf_data.wordpieces.strings) > 5


def test_hidden_states_are_those_of_the_encoder(nlp: Language, encoder: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    texts = [POSTS[0]["text"], "SQL", POSTS[1]["text"], "\n".join(p["text"] for p in POSTS * 6)]
    for batch in (texts[:1], texts):
        for text, doc in list(zip(batch, nlp.pipe(batch, batch_size=4), strict=True))[:3]:
            with torch.no_grad():
                expected = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state
            states = doc._.trf_data.model_output.last_hidden_state
            assert len(states) == 1
            assert np.allclose(states[0, : expected.shape[1]], expected[0], atol=1e-5)
            names = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
            assert doc._.trf_data.wordpieces.strings[0][: len(names)] == names
