"""The decoder against every path written out, and its promises on any logits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scripts.skill_ner import decoder


def decode_bio(
    logits: np.ndarray, lengths: np.ndarray, transitions: np.ndarray | None = None
) -> np.ndarray:
    """Decode, without transitions unless they are given."""
    n_tags = logits.shape[1]
    plain = np.zeros((n_tags + 1, n_tags))
    return decoder.decode_bio(logits, lengths, plain if transitions is None else transitions)


def is_valid(path: tuple[int, ...]) -> bool:
    """An inside tag (even, above 0) follows a begin or inside tag of its label."""
    before = (0, *path)
    return all(t == 0 or t % 2 or p in (t - 1, t) for p, t in zip(before, path, strict=False))


def spans_of(path: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Start, end and label of each span of a path."""
    spans = []
    for start, tag in enumerate(path):
        if tag % 2:
            end = start + 1
            while end < len(path) and path[end] == tag + 1:
                end += 1
            spans.append((start, end, tag // 2))
    return spans


def by_enumeration(
    logits: np.ndarray, transitions: np.ndarray
) -> list[tuple[int, int, int, float]]:
    """Best path and span probabilities by writing out all valid paths."""
    n_tokens, n_tags = logits.shape
    paths = [p for p in itertools.product(range(n_tags), repeat=n_tokens) if is_valid(p)]
    weights = np.exp(
        [logits[range(n_tokens), p].sum() + transitions[[n_tags, *p[:-1]], p].sum() for p in paths]
    )
    best = paths[int(weights.argmax())]
    return [
        (
            *span,
            sum(w for p, w in zip(paths, weights, strict=True) if span in spans_of(p))
            / weights.sum(),
        )
        for span in spans_of(best)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_best_path_and_confidence_are_those_of_all_valid_paths(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, transitions = random.normal(0, 2, (5, 5)), random.normal(0, seed % 3, (6, 5))
    found = decode_bio(logits, np.array([5]), transitions)
    expected = by_enumeration(logits, transitions)
    assert [(s["start"], s["end"], s["label"]) for s in found] == [row[:3] for row in expected]
    assert found["confidence"] == pytest.approx([row[3] for row in expected], abs=1e-9)


def test_it_is_the_best_valid_path_and_not_a_repaired_one() -> None:
    # Each token's best tag is "inside"; alone that is not valid. Mended afterwards it would be
    # one span from the first token, but to begin there costs more than to begin nowhere.
    logits = np.array([[0.0, -9.0, 1.0], [0.0, 0.5, 1.0]])
    found = decode_bio(logits, np.array([2]))
    assert found[["start", "end", "label"]].tolist() == [(1, 2, 0)]


def test_touching_spans_of_one_label_stay_two() -> None:
    logits = np.array([[0.0, 5.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    found = decode_bio(logits, np.array([3]))
    assert found[["start", "end"]].tolist() == [(0, 1), (1, 3)]


def test_transitions_decide_between_like_paths() -> None:
    logits = np.array([[0.0, 5.0, 0.0], [0.0, 5.0, 4.5], [0.0, -5.0, -5.0]])
    apart = np.zeros((4, 3))
    apart[1, 1] = -2.0
    found = decode_bio(logits, np.array([3]), apart)
    assert found[["start", "end"]].tolist() == [(0, 2)]


def test_sequences_do_not_influence_one_another() -> None:
    first, second = np.random.default_rng(1).normal(0, 2, (2, 6, 5))
    both = decode_bio(np.vstack([first, second]), np.array([6, 6]))
    alone = [decode_bio(first, np.array([6])), decode_bio(second, np.array([6]))]
    assert both["confidence"].tolist() == np.concatenate([a["confidence"] for a in alone]).tolist()
    assert both["start"].tolist() == [*alone[0]["start"], *(alone[1]["start"] + 6)]


def test_a_token_that_must_be_outside_ends_a_span() -> None:
    logits = np.array([[0.0, 5.0, 0.0], [0.0, -np.inf, -np.inf], [0.0, -1.0, 5.0], [0.0, 5.0, 1.0]])
    found = decode_bio(logits, np.array([4]))
    assert found[["start", "end"]].tolist() == [(0, 1), (3, 4)]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_nothing_gives_nothing(lengths: list[int]) -> None:
    assert len(decode_bio(np.zeros((0, 5)), np.array(lengths, dtype=int))) == 0


@settings(max_examples=150, deadline=None)
@given(
    logits=arrays(
        "float32", st.tuples(st.integers(1, 30), st.just(7)), elements=st.floats(-50, 50, width=32)
    ),
    outside=st.sets(st.integers(0, 29)),
    cut=st.integers(0, 30),
)
def test_spans_are_always_valid(logits: np.ndarray, outside: set[int], cut: int) -> None:
    hidden = [i for i in outside if i < len(logits)]
    logits[hidden, 1:] = -np.inf
    cut = min(cut, len(logits))
    found = decode_bio(logits, np.array([cut, len(logits) - cut]))
    taken = [i for s in found for i in range(s["start"], s["end"])]
    assert len(taken) == len(set(taken))
    assert not set(taken) & set(hidden)
    assert not any(s["start"] < cut < s["end"] for s in found)
    assert ((found["confidence"] > 0) & (found["confidence"] <= 1)).all()
    assert (found["start"] < found["end"]).all()
