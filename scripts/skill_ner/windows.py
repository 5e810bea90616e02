"""Packs whole lines of a post into windows that an encoder can read. NumPy only."""

from collections.abc import Callable
from functools import partial

import numpy as np
from spacy.util import registry

# How good a place is to cut a line that is longer than a window, by what stands before the cut.
_SENTENCE, _CLAUSE, _SPACE, _TOKEN, _NOWHERE = 4, 3, 2, 1, 0


@registry.misc("skill_ner.LineWindows.v1")
def create_line_windows(length: int) -> Callable:
    """Build the function that packs wordpieces into windows.

    length (int): Wordpieces a window may hold, the encoder's special tokens included.
    RETURNS (Callable): `pack_lines` with its `length` given.
    RAISES (ValueError): `length` leaves no room beside two special tokens.
    """
    if length < 3:
        raise ValueError(f"A window needs at least 3 wordpieces, found {length}: raise `length`.")
    return partial(pack_lines, length=length)


def pack_lines(
    text: str, pieces: np.ndarray, tokens: np.ndarray, *, length: int, limit: int, special: int
) -> np.ndarray:
    """Cut the wordpieces of one post into windows: each piece is in exactly one, in order.

    Whole lines go together while they fit. A line longer than a window is cut into parts of like
    length, at the end of a sentence where one is near, never inside a token. A token longer than
    a window gets one of its own, up to the encoder's limit; past that it is cut.

    text (str): The post.
    pieces (np.ndarray): Character offsets of each wordpiece. Shape: (n_pieces, 2).
    tokens (np.ndarray): Character offsets of each token. Shape: (n_tokens, 2).
    length (int): Wordpieces a window may hold, special tokens included.
    limit (int): Wordpieces the encoder can hold, special tokens included.
    special (int): Special tokens that the encoder adds to a window.
    RETURNS (np.ndarray): First and end piece of each window. Shape: (n_windows, 2). A post of
        white space alone has one empty window, a post without tokens none.
    """
    if not len(pieces):
        return np.zeros((min(len(tokens), 1), 2), dtype="int64")
    room, most = min(length, limit) - special, limit - special
    quality = _cut_quality(text, pieces, tokens)
    windows: list[tuple[int, int]] = []
    open_from = 0  # where the window being filled begins; always at a line's or a part's start
    lines = np.append(_line_starts(text, pieces), len(pieces))
    for start, end in zip(lines[:-1].tolist(), lines[1:].tolist(), strict=True):
        if end - open_from <= room:
            continue
        if start > open_from:
            windows.append((open_from, start))
        *full, (open_from, _) = _cut_line(start, end, quality, room, most)
        windows.extend(full)
    windows.append((open_from, len(pieces)))
    return np.array(windows, dtype="int64")


def _line_starts(text: str, pieces: np.ndarray) -> np.ndarray:
    breaks = np.flatnonzero(_codes(text) == ord("\n"))
    line = np.searchsorted(breaks, pieces[:, 0])
    return np.flatnonzero(np.diff(line, prepend=-1))


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="uint32")


def _cut_quality(text: str, pieces: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """How good a cut before each piece is. Shape: (n_pieces,)."""
    first = np.searchsorted(tokens[:, 0], pieces[:, 0], side="right")
    last = np.searchsorted(tokens[:, 0], np.maximum(pieces[:, 1] - 1, pieces[:, 0]), side="right")
    quality = np.zeros(len(pieces), dtype="int8")
    quality[1:][first[1:] > last[:-1]] = _TOKEN
    spaced = np.flatnonzero(pieces[1:, 0] > pieces[:-1, 1]) + 1
    spaced = spaced[quality[spaced] == _TOKEN]
    before = _codes(text)[pieces[spaced - 1, 1] - 1]
    quality[spaced] = _SPACE
    quality[spaced[np.isin(before, [ord(c) for c in ",)]"])]] = _CLAUSE
    quality[spaced[np.isin(before, [ord(c) for c in ".;:!?•"])]] = _SENTENCE
    return quality


def _cut_line(
    start: int, end: int, quality: np.ndarray, room: int, most: int
) -> list[tuple[int, int]]:
    """Cut one line into parts of at most `room` pieces, of like length."""
    parts = []
    while end - start > room:
        # The parts still needed share what is left; the cut is searched in the latter half of one.
        even = -(-(end - start) // -(-(end - start) // room))
        cut = _best_cut(quality, start + max(even // 2, 1), start + room, start + even)
        if cut is None:
            cut = _best_cut(quality, start + 1, start + room, start + even)
        if cut is None:  # one token fills the window and goes on
            allowed = np.flatnonzero(quality[start + 1 : end]) + start + 1
            cut = min(int(allowed[0]) if len(allowed) else end, start + most)
        parts.append((start, cut))
        start = cut
    if start < end:
        parts.append((start, end))
    return parts


def _best_cut(quality: np.ndarray, low: int, high: int, target: int) -> int | None:
    """The best place in [low, high], nearest to `target` among equals."""
    places = np.arange(low, high + 1)
    score = quality[low : high + 1]
    if not score.any():
        return None
    best = places[score == score.max()]
    return int(best[np.argmin(np.abs(best - target))])
