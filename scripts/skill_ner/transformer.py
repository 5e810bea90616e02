"""A transformer over packed lines, in place of spacy-transformers' strided spans."""

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from spacy.attrs import IDX, LENGTH
from spacy.tokens import Doc, Span
from spacy.util import registry
from spacy_transformers.data_classes import (
    FullTransformerBatch,
    HFObjects,
    TransformerData,
    WordpieceBatch,
)
from spacy_transformers.layers import split_trf_batch
from spacy_transformers.layers.hf_wrapper import HFWrapper
from spacy_transformers.layers.transformer_model import (
    _convert_transformer_inputs,
    _convert_transformer_outputs,
    huggingface_from_pretrained,
    set_pytorch_transformer,
)
from spacy_transformers.layers.trfs2arrays import trfs2arrays
from thinc.api import Model, chain, torch2xp
from thinc.types import Floats2d, Ragged
from transformers.utils import ModelOutput

_IMPORTED_BY = os.getpid()


@registry.architectures("skill_ner.Transformer.v1")
def create_transformer(
    name: str,
    windows: Callable,
    max_batch_items: int,
    mixed_precision: bool,
    transformer_config: dict[str, Any],
    bfloat16: bool,
    masking: float,
) -> Model[list[Doc], FullTransformerBatch]:
    """Build an encoder that reads each post once, in windows of whole lines.

    It returns what spacy-transformers' own model returns, so that any listener works on it.

    name (str): Folder of the encoder in the Hugging Face hub's layout; read on initialisation.
    windows (Callable): Packs the wordpieces of a post, see `skill_ner.LineWindows.v1`.
    max_batch_items (int): Wordpieces, padding included, in one call of the encoder (inference).
    mixed_precision (bool): Half precision on a GPU; without effect on a CPU.
    transformer_config (dict[str, Any]): What is to differ from the encoder's own config.json.
    bfloat16 (bool): Train with matrix products in bfloat16 where the processor computes them
        itself; weights, gradients and inference stay in single precision.
    masking (float): Share of the wordpieces that are hidden behind the mask token in training, so
        that the context must tell what they are (word dropout, Iyyer et al. 2015, section 3.2).
    RETURNS (Model[list[Doc], FullTransformerBatch]): The model.
    """
    encoder = HFWrapper(
        HFObjects(None, None, None, {"use_fast": True}, {}),
        convert_inputs=_convert_transformer_inputs,
        convert_outputs=_convert_transformer_outputs,
        mixed_precision=mixed_precision,
        grad_scaler_config={},
    )
    return Model(
        "skill_ner_transformer",
        _forward,
        init=_init,
        layers=[encoder],
        dims={"nO": None},
        attrs={
            "name": name,
            "windows": windows,
            "max_batch_items": max_batch_items,
            "transformer_config": transformer_config,
            "bfloat16": bfloat16,
            "masking": masking,
            "has_transformer": False,
            "set_transformer": set_pytorch_transformer,
            "replace_listener": _replace_listener,
            "replace_listener_cfg": _replace_listener_cfg,
        },
    )


@registry.architectures("skill_ner.Tok2VecTransformer.v1")
def create_tok2vec_transformer(
    name: str,
    windows: Callable,
    max_batch_items: int,
    mixed_precision: bool,
    transformer_config: dict[str, Any],
    bfloat16: bool,
    masking: float,
    pooling: Model[Ragged, Floats2d],
    grad_factor: float,
) -> Model[list[Doc], list[Floats2d]]:
    """Build the encoder as part of one component: what `nlp.replace_listeners` puts in place.

    RETURNS (Model[list[Doc], list[Floats2d]]): One row a token.
    """
    transformer = create_transformer(
        name, windows, max_batch_items, mixed_precision, transformer_config, bfloat16, masking
    )
    return chain(_replace_listener(transformer), trfs2arrays(pooling, grad_factor))


def _replace_listener(model: Model) -> Model:
    return chain(model, split_trf_batch())


def _replace_listener_cfg(transformer: dict[str, Any], listener: dict[str, Any]) -> dict[str, Any]:
    shared = {key: listener[key] for key in ("pooling", "grad_factor")}
    return {**transformer, **shared, "@architectures": "skill_ner.Tok2VecTransformer.v1"}


def window_spans(model: Model, doc: Doc) -> list[Span]:
    """The windows of a post as spans of its tokens, for training on the windows of inference.

    RETURNS (list[Span]): In order; together they hold every token of the doc.
    """
    post = _Post(model, doc)
    starts = post.pieces[post.windows[:, 0], 0] if len(post.pieces) else []
    cuts = np.searchsorted(post.tokens[:, 0], starts, side="right") - 1
    # A token that fills several windows belongs to the first; leading blanks to the first line.
    bounds = [0, *np.unique(cuts)[1:].tolist(), len(doc)]
    return [doc[a:b] for a, b in pairwise(bounds) if a < b]


def _init(model: Model, X: Any = None, Y: Any = None) -> None:  # noqa: ARG001 (thinc's names)
    if not model.attrs["has_transformer"]:
        objects = huggingface_from_pretrained(
            model.attrs["name"], {"use_fast": True}, dict(model.attrs["transformer_config"])
        )
        set_pytorch_transformer(model, objects)


def has_bfloat16() -> bool:
    """RETURNS (bool): Whether the processor multiplies bfloat16 matrices without emulation."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


class _Post:
    """One post's wordpieces, their windows, and which of them each token has.

    pieces, tokens (np.ndarray): Character offsets. Shape: (n, 2).
    windows (np.ndarray): First and end piece of each window. Shape: (n_windows, 2).
    """

    def __init__(self, model: Model, doc: Doc, encoding: Any = None) -> None:
        objects = model.layers[0].shims[0]._hfmodel
        encoding = encoding or _encode(objects.tokenizer, [doc.text])[0]
        tokens = doc.to_array([IDX, LENGTH]).astype("int64").reshape(-1, 2)
        tokens[:, 1] += tokens[:, 0]
        self.doc, self.tokens, self.encoding = doc, tokens, encoding
        self.pieces = np.array(encoding.offsets, dtype="int64").reshape(-1, 2)
        self.windows = model.attrs["windows"](
            doc.text,
            self.pieces,
            tokens,
            limit=min(
                objects.tokenizer.model_max_length,
                objects.transformer.config.max_position_embeddings,
            ),
            special=objects.tokenizer.num_special_tokens_to_add(),
        )

    def align(self, width: int, before: int) -> Ragged:
        """Each token's wordpieces, as indices into this post's padded windows, flattened.

        width (int): Wordpieces in a padded window.
        before (int): Special tokens at the start of a window.
        RETURNS (Ragged): Data shape: (n_pairs,); one length a token, zero for white space.
        """
        lengths = np.diff(self.windows, axis=1)[:, 0]
        window = np.repeat(np.arange(len(lengths)), lengths)
        column = np.arange(len(self.pieces)) - np.repeat(self.windows[:, 0], lengths) + before
        place = window * width + column
        # Pieces that share a character with the token; both lists are sorted.
        first = np.searchsorted(self.pieces[:, 1], self.tokens[:, 0], side="right")
        end = np.searchsorted(self.pieces[:, 0], self.tokens[:, 1], side="left")
        count = np.maximum(end - first, 0)
        index = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        return Ragged(place[index].astype("int32"), count.astype("int32"))


def _encode(tokenizer: Any, texts: list[str]) -> list[Any]:
    backend = tokenizer.backend_tokenizer
    # Some published tokenizer files truncate at 128: posts would be cut without a word.
    backend.no_truncation()
    backend.no_padding()
    return backend.encode_batch(texts, add_special_tokens=False)


def _forward(
    model: Model, docs: list[Doc], is_train: bool
) -> tuple[FullTransformerBatch, Callable[[FullTransformerBatch], list[Doc]]]:
    if os.getpid() != _IMPORTED_BY:
        # Torch's threads do not survive a fork: a second parallel region would wait for ever.
        torch.set_num_threads(1)
    encoder, tokenizer = model.layers[0], model.layers[0].shims[0]._hfmodel.tokenizer
    encodings = _encode(tokenizer, [doc.text for doc in docs])
    posts = [_Post(model, doc, encoding) for doc, encoding in zip(docs, encodings, strict=True)]
    wordpieces = _pad(tokenizer, posts)
    if is_train:
        mask_pieces(tokenizer, wordpieces.input_ids, model.attrs["masking"])
        with torch.autocast("cpu", torch.bfloat16, model.attrs["bfloat16"] and has_bfloat16()):
            output, backprop = encoder(wordpieces, True)
    else:
        output, backprop = _predict_sorted(model, wordpieces), None
    batch = _split(posts, wordpieces, output, tokenizer)

    def backprop_transformer(d_batch: FullTransformerBatch) -> list[Doc]:
        backprop(d_batch.model_output)
        return docs

    return batch, backprop_transformer


def _special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and after a sequence: with one marked id between them."""
    ids = tokenizer.build_inputs_with_special_tokens([-1])
    return ids[: ids.index(-1)], ids[ids.index(-1) + 1 :]


def _pad(tokenizer: Any, posts: list[_Post]) -> WordpieceBatch:
    """All windows of all posts as one padded batch. Shape: (n_windows, longest window)."""
    before, after = _special_ids(tokenizer)
    around = len(before) + len(after)
    lengths = np.concatenate([np.diff(post.windows, axis=1)[:, 0] for post in posts]) + around
    shape = (len(lengths), int(lengths.max(initial=0)))
    ids = np.full(shape, tokenizer.pad_token_id, dtype="int64")
    strings, row = [], 0
    for post in posts:
        post_ids, names = post.encoding.ids, post.encoding.tokens
        for start, end in post.windows.tolist():
            full = [*before, *post_ids[start:end], *after]
            ids[row, : len(full)] = full
            padding = [tokenizer.pad_token] * (shape[1] - len(full))
            special = tokenizer.convert_ids_to_tokens
            strings.append([*special(before), *names[start:end], *special(after), *padding])
            row += 1
    mask = (np.arange(shape[1]) < lengths[:, None]).astype("float32")
    types = np.zeros_like(ids) if "token_type_ids" in tokenizer.model_input_names else None
    return WordpieceBatch(strings, ids, mask, lengths.tolist(), types)


def mask_pieces(tokenizer: Any, ids: np.ndarray, share: float) -> None:
    """Replace a random share of the wordpieces, not of the special tokens, in place."""
    if share:
        chosen = np.random.random_sample(ids.shape) < share
        ids[chosen & ~np.isin(ids, tokenizer.all_special_ids)] = tokenizer.mask_token_id


def _predict_sorted(model: Model, wordpieces: WordpieceBatch) -> ModelOutput:
    """Run the encoder on windows of like length together, so that little of a batch is padding."""
    lengths = np.array(wordpieces.lengths)
    order = np.argsort(-lengths, kind="stable")
    hidden = None
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(model.attrs["max_batch_items"] // longest, 1)]
        part = WordpieceBatch(
            [],
            wordpieces.input_ids[rows, :longest],
            wordpieces.attention_mask[rows, :longest],
            lengths[rows].tolist(),
            None
            if wordpieces.token_type_ids is None
            else wordpieces.token_type_ids[rows, :longest],
        )
        states = model.layers[0].predict(part).last_hidden_state
        if hidden is None:
            shape = (*wordpieces.input_ids.shape, states.shape[-1])
            hidden = torch.zeros(shape, dtype=torch.float32, device=states.device)
        hidden[torch.from_numpy(rows).to(states.device), :longest] = states.float()
        start += len(rows)
    return ModelOutput(last_hidden_state=hidden)


def _split(
    posts: list[_Post], wordpieces: WordpieceBatch, output: ModelOutput, tokenizer: Any
) -> FullTransformerBatch:
    before, _ = _special_ids(tokenizer)
    states = torch2xp(output.last_hidden_state) if len(wordpieces.lengths) else None
    spans, data, row = [], [], 0
    for post in posts:
        end = row + len(post.windows)
        spans.append([post.doc[:]] if end > row else [])
        if end == row:
            data.append(TransformerData.empty())
            continue
        hidden = ModelOutput(last_hidden_state=states[row:end])
        align = post.align(wordpieces.input_ids.shape[1], len(before))
        data.append(TransformerData(wordpieces[row:end], hidden, align))
        row = end
    align = Ragged(
        np.concatenate([each.align.dataXd for each in data]),
        np.concatenate([each.align.lengths for each in data]),
    )
    return FullTransformerBatch(spans, wordpieces, output, align, data)
