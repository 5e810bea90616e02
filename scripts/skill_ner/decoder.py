"""From logits to spans: the best valid BIO path and each span's probability. NumPy only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from spacy.util import registry


@registry.misc("skill_ner.BioDecoder.v1")
def create_bio_decoder() -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """RETURNS (Callable): `decode_bio`."""
    return decode_bio


SPAN = np.dtype([("start", "i8"), ("end", "i8"), ("label", "i8"), ("confidence", "f8")])


def decode_bio(logits: np.ndarray, lengths: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """Find the spans of the most probable valid path through every sequence.

    The model is a linear chain (Lafferty et al. 2001): a path weighs exp(sum of its logits and
    transitions) if it is valid (an inside tag follows a begin or inside tag of its label) and
    nothing otherwise. A span's confidence is the share of weight of all valid paths that hold
    exactly this span: forward-backward (Rabiner 1989, section III; constrained as in Culotta &
    McCallum 2004).

    logits (np.ndarray): Outside, then begin and inside of each label; minus infinity for all
        labels where a token must be outside. Shape: (n_tokens, n_tags).
    lengths (np.ndarray): Tokens of each sequence. Shape: (n_sequences,).
    transitions (np.ndarray): Score of each tag after each other; the last row is for the first
        token of a sequence. Shape: (n_tags + 1, n_tags).
    RETURNS (np.ndarray): Records of type SPAN; start and end (exclusive) are rows of `logits`.
    """
    scores = np.asarray(logits, dtype="float64")
    if scores.shape[1] < 3:
        return np.zeros(0, dtype=SPAN)
    chain = make_chain(scores, lengths, transitions)
    tags = _best_path(chain)
    begin = np.flatnonzero(tags % 2)
    stops = np.append(np.flatnonzero(tags % 2 | (tags == 0)), len(tags))
    spans = np.zeros(len(begin), dtype=SPAN)
    spans["start"], spans["end"] = begin, stops[np.searchsorted(stops, begin, side="right")]
    spans["label"] = tags[begin] // 2
    spans["confidence"] = _confidence(chain, spans)
    return spans


@dataclass
class Chain:
    """Sequences cut into segments, runs of tokens that may carry a label, longest first.

    scores (np.ndarray): The logits. Shape: (n_tokens, n_tags).
    between, first (np.ndarray): Scores of a tag after another and at the start of a segment,
        minus infinity where that is not valid. Shapes: (n_tags, n_tags), (n_tags,).
    starts, sizes (np.ndarray): First row and length of each segment. Shape: (n_segments,).
    active (np.ndarray): How many segments still go on at each step. Shape: (longest,).
    """

    scores: np.ndarray
    between: np.ndarray
    first: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    active: np.ndarray


def make_chain(scores: np.ndarray, lengths: np.ndarray, transitions: np.ndarray) -> Chain:
    """Cut sequences where a token must be outside: no path crosses from one segment to another."""
    outside = np.isneginf(scores[:, 1:]).all(axis=1)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.flatnonzero(~outside)
    cut = np.flatnonzero((np.diff(rows) > 1) | (np.diff(sequence[rows]) > 0)) + 1
    bounds = np.concatenate([[0], cut, [len(rows)]])
    sizes = np.diff(bounds)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    starts, sizes = rows[bounds[:-1][order]], sizes[order]
    tags = np.arange(scores.shape[1])
    inside = (tags > 0) & (tags % 2 == 0)
    opened = (tags[:, None] == tags) | (tags[:, None] == tags - 1)  # of the same label
    between = np.where(inside & ~opened, -np.inf, transitions[:-1])
    first = np.where(inside, -np.inf, transitions[-1])
    active = np.searchsorted(-sizes, -np.arange(int(sizes.max(initial=0))), side="left")
    return Chain(scores, between, first, starts, sizes, active)


def _best_path(chain: Chain) -> np.ndarray:
    """Viterbi. RETURNS (np.ndarray): Tags. Shape: (n_tokens,)."""
    before = np.zeros(chain.scores.shape, dtype="int64")  # the best tag of the token before
    last = np.zeros(len(chain.starts), dtype="int64")  # the best tag of each segment's last token
    best = np.zeros((len(chain.starts), chain.scores.shape[1]))
    for step, count in enumerate(chain.active):
        row = chain.starts[:count] + step
        if step == 0:
            best = chain.first + chain.scores[row]
        else:
            ways = best[:count, :, None] + chain.between
            before[row] = ways.argmax(axis=1)
            best[:count] = ways.max(axis=1) + chain.scores[row]
        ends = chain.sizes[:count] == step + 1
        last[:count][ends] = best[:count][ends].argmax(axis=1)
    tags = np.zeros(len(chain.scores), dtype="int64")
    tag = last.copy()
    for step in range(len(chain.active) - 1, -1, -1):
        row = chain.starts[: chain.active[step]] + step
        tags[row] = tag[: len(row)]
        tag[: len(row)] = before[row, tag[: len(row)]]
    return tags


def forward_backward(chain: Chain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weights of all valid paths up to each token's tags, and from them on.

    RETURNS (tuple[np.ndarray, np.ndarray, np.ndarray]): Up to and with the token, after the
        token, and of the whole segment. Shapes: (n_tokens, n_tags) twice, (n_segments,).
    """
    up_to, after = np.zeros(chain.scores.shape), np.zeros(chain.scores.shape)
    for step, count in enumerate(chain.active):
        row = chain.starts[:count] + step
        if step == 0:
            up_to[row] = chain.first + chain.scores[row]
        else:
            ways = up_to[row - 1][:, :, None] + chain.between
            up_to[row] = _log_sum(ways, 1) + chain.scores[row]
    for step in range(len(chain.active) - 2, -1, -1):
        row = chain.starts[: chain.active[step + 1]] + step
        ways = chain.between + (chain.scores[row + 1] + after[row + 1])[:, None, :]
        after[row] = _log_sum(ways, 2)
    return up_to, after, _log_sum(up_to[chain.starts + chain.sizes - 1], 1)


def _log_sum(values: np.ndarray, axis: int) -> np.ndarray:
    most = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - most).sum(axis=axis)) + most.squeeze(axis)


def _confidence(chain: Chain, spans: np.ndarray) -> np.ndarray:
    """Marginal probability of each span. Shape: (n_spans,)."""
    if not len(spans):
        return np.zeros(0)
    up_to, after, total = forward_backward(chain)
    by_row = np.argsort(chain.starts)
    segment = by_row[np.searchsorted(chain.starts[by_row], spans["start"], side="right") - 1]
    start, end, begin = spans["start"], spans["end"], 1 + 2 * spans["label"]
    inner, more = begin + 1, end - start - 1
    is_first = start == chain.starts[segment]
    is_last = end == chain.starts[segment] + chain.sizes[segment]
    before = up_to[np.maximum(start - 1, 0)] + chain.between[:, begin].T
    weight = np.where(is_first, chain.first[begin], _log_sum(before, 1))
    weight += chain.scores[start, begin]
    values = chain.scores[:, 2::2]
    sums = np.vstack([np.zeros((1, values.shape[1])), np.cumsum(_finite(values), axis=0)])
    weight += sums[end, spans["label"]] - sums[start + 1, spans["label"]]
    weight += (more > 0) * _finite(chain.between[begin, inner])
    weight += np.maximum(more - 1, 0) * _finite(chain.between[inner, inner])
    # What follows is anything but one more inside tag.
    following = np.minimum(end, len(chain.scores) - 1)
    rest = chain.between[np.where(more > 0, inner, begin)] + chain.scores[following]
    rest += after[following]
    rest[np.arange(len(spans)), inner] = -np.inf
    weight += np.where(is_last, 0.0, _log_sum(np.where(is_last[:, None], 0.0, rest), 1))
    return np.exp(weight - total[segment]).clip(0.0, 1.0)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(values), 0.0, values)
