"""From logits to spans: the best valid BIO path and each span's probability. NumPy only."""

from collections.abc import Callable

import numpy as np
from spacy.util import registry


@registry.misc("skill_ner.BioDecoder.v1")
def create_bio_decoder() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """RETURNS (Callable): `decode_bio`."""
    return decode_bio


SPAN = np.dtype([("start", "i8"), ("end", "i8"), ("label", "i8"), ("confidence", "f8")])


def decode_bio(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Find the spans of the most probable valid path through every sequence.

    The model is a chain in which a path weighs exp(sum of its logits) if it is valid (an inside
    tag follows a begin or inside tag of its label) and nothing otherwise. A span's confidence is
    the share of weight of all valid paths that hold exactly this span: forward-backward over
    valid sequences (Rabiner 1989, section III; constrained as in Culotta & McCallum 2004).

    logits (np.ndarray): Outside, then begin and inside of each label; minus infinity for all
        labels where a token must be outside. Shape: (n_tokens, 1 + 2 * n_labels).
    lengths (np.ndarray): Tokens of each sequence. Shape: (n_sequences,).
    RETURNS (np.ndarray): Records of type SPAN; start and end (exclusive) are rows of `logits`.
    """
    scores = np.asarray(logits, dtype="float64")
    if scores.shape[1] < 3:
        return np.zeros(0, dtype=SPAN)
    starts, sizes = _segments(np.isneginf(scores[:, 1:]).all(axis=1), lengths)
    tags = _best_path(scores, starts, sizes)
    begin = np.flatnonzero(tags % 2)
    stops = np.append(np.flatnonzero(tags % 2 | (tags == 0)), len(tags))
    spans = np.zeros(len(begin), dtype=SPAN)
    spans["start"], spans["end"] = begin, stops[np.searchsorted(stops, begin, side="right")]
    spans["label"] = tags[begin] // 2
    spans["confidence"] = _confidence(scores, starts, sizes, spans)
    return spans


def _segments(outside: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of tokens that may carry a label, longest first: no path crosses from one to another."""
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.flatnonzero(~outside)
    cut = np.flatnonzero((np.diff(rows) > 1) | (np.diff(sequence[rows]) > 0)) + 1
    bounds = np.concatenate([[0], cut, [len(rows)]])
    sizes = np.diff(bounds)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    return rows[bounds[:-1][order]], sizes[order]


def _steps(sizes: np.ndarray) -> np.ndarray:
    """How many segments, longest first, still go on at each step."""
    longest = int(sizes.max(initial=0))
    return np.searchsorted(-sizes, -np.arange(longest), side="left")


def _best_path(scores: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Viterbi. `free` is the best path that may be followed by anything, `inside[x]` the best
    that ends within a span of label x. RETURNS (np.ndarray): Tags. Shape: (n_tokens,)."""
    outside, begin, inner = scores[:, 0], scores[:, 1::2], scores[:, 2::2]
    n_labels = begin.shape[1]
    from_inside = np.zeros(begin.shape, dtype=bool)  # the best way into a span at this token
    choice = np.zeros(len(scores), dtype="int64")  # the best end at this token: 0, or 1 + label
    free, inside = np.zeros(len(starts)), np.full((len(starts), n_labels), -np.inf)
    active = _steps(sizes)
    for step, count in enumerate(active):
        row = starts[:count] + step
        opened, continued = free[:count, None] + begin[row], inside[:count] + inner[row]
        from_inside[row] = continued > opened
        inside[:count] = np.maximum(opened, continued)
        ends = np.column_stack([free[:count] + outside[row], inside[:count]])
        choice[row] = ends.argmax(axis=1)
        free[:count] = ends.max(axis=1)
    tags = np.zeros(len(scores), dtype="int64")
    open_label = np.full(len(starts), -1)  # the label of the span that the next token continues
    for step in range(len(active) - 1, -1, -1):
        row = starts[: active[step]] + step
        label = np.where(open_label[: len(row)] >= 0, open_label[: len(row)], choice[row] - 1)
        goes_on = (label >= 0) & from_inside[row, np.maximum(label, 0)]
        tags[row] = np.where(label < 0, 0, 1 + 2 * label + goes_on)
        open_label[: len(row)] = np.where(goes_on, label, -1)
    return tags


def _confidence(
    scores: np.ndarray, starts: np.ndarray, sizes: np.ndarray, spans: np.ndarray
) -> np.ndarray:
    """Marginal probability of each span. Shape: (n_spans,)."""
    outside, begin, inner = scores[:, 0], scores[:, 1::2], scores[:, 2::2]
    # Log weight of all that comes before a row, and of all from it on if no span continues there.
    before, after = np.zeros(len(scores) + 1), np.zeros(len(scores) + 1)
    free, inside = np.zeros(len(starts)), np.full((len(starts), begin.shape[1]), -np.inf)
    active = _steps(sizes)
    for step, count in enumerate(active):
        row = starts[:count] + step
        before[row] = free[:count]
        inside[:count] = np.logaddexp(free[:count, None] + begin[row], inside[:count] + inner[row])
        ends = np.column_stack([free[:count] + outside[row], inside[:count]])
        free[:count] = np.logaddexp.reduce(ends, axis=1)
    total = free
    rest, rest_inside = np.zeros(len(starts)), np.zeros((len(starts), begin.shape[1]))
    for step in range(len(active) - 1, -1, -1):
        count = active[step]
        row = starts[:count] + step
        ways = np.column_stack([outside[row] + rest[:count], begin[row] + rest_inside[:count]])
        rest[:count] = after[row] = np.logaddexp.reduce(ways, axis=1)
        continued = inner[row] + rest_inside[:count]
        rest_inside[:count] = np.logaddexp(rest[:count, None], continued)
    by_row = np.argsort(starts)
    segment = by_row[np.searchsorted(starts[by_row], spans["start"], side="right") - 1]
    last = spans["end"] == starts[segment] + sizes[segment]
    weight = before[spans["start"]] + _span_logits(scores, spans) + after[spans["end"]] * ~last
    return np.exp(weight - total[segment]).clip(0.0, 1.0)


def _span_logits(scores: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Sum of the logits of each span's own tags. Shape: (n_spans,)."""
    start, end, label = spans["start"], spans["end"], spans["label"]
    inner = np.where(np.isneginf(scores[:, 2::2]), 0.0, scores[:, 2::2])
    sums = np.vstack([np.zeros((1, inner.shape[1])), np.cumsum(inner, axis=0)])
    return scores[start, 1 + 2 * label] + sums[end, label] - sums[start + 1, label]
