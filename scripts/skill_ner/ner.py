"""The `ner` component: finds skills, gives each a confidence, and learns them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from spacy.attrs import IS_SPACE
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.util import filter_spans
from spacy.vocab import Vocab
from thinc.api import Config, Model, Optimizer, set_dropout_rate
from thinc.types import Floats2d

DEFAULT_CONFIG = """
[skill_ner]
threshold = 0.6
overwrite = false
transition_weight = 0.2
teacher_weight = 0.5

[skill_ner.model]
@architectures = "skill_ner.LinearBIO.v1"
nO = null

[skill_ner.model.tok2vec]
@architectures = "spacy-transformers.TransformerListener.v1"
grad_factor = 1.0
upstream = "*"

[skill_ner.model.tok2vec.pooling]
@layers = "skill_ner.FirstPiece.v1"

[skill_ner.decoder]
@misc = "skill_ner.BioDecoder.v1"

[skill_ner.scorer]
@scorers = "spacy.ner_scorer.v1"
"""


@Language.factory(
    "skill_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type", "span._.confidence"],
    default_config=Config().from_str(DEFAULT_CONFIG)["skill_ner"],
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def create_skill_ner(
    nlp: Language,
    name: str,
    model: Model[list[Doc], list[Floats2d]],
    decoder: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    threshold: float,
    overwrite: bool,
    transition_weight: float,
    teacher_weight: float,
    scorer: Callable | None,
) -> "SkillNER":
    """Construct a `SkillNER`.

    model (Model[list[Doc], list[Floats2d]]): Logits of BIO classes, see `skill_ner.LinearBIO.v1`.
    decoder (Callable): From logits to spans, see `skill_ner.BioDecoder.v1`.
    threshold (float): Least confidence of a span that is kept, from 0 (all) to 1.
    overwrite (bool): Whether entities that a doc already has give way to the predicted ones.
    transition_weight (float): How much it counts which tag follows which in the training posts;
        0 for not at all.
    teacher_weight (float): How much a larger model's probabilities count in training, where an
        example has some, from 0 (the annotation alone) to 1; see `SkillNER.get_loss`.
    scorer (Callable | None): The scoring method.
    RETURNS (SkillNER): The component.
    """
    return SkillNER(
        nlp.vocab,
        model,
        name,
        decoder=decoder,
        threshold=threshold,
        overwrite=overwrite,
        transition_weight=transition_weight,
        teacher_weight=teacher_weight,
        scorer=scorer,
    )


class SkillNER(TrainablePipe):
    """Marks skills as `doc.ents`, each with a probability in `span._.confidence`.

    The confidence is the probability of exactly this span with exactly this label among all
    valid taggings of the doc; see `skill_ner.BioDecoder.v1` for the formula.
    """

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], list[Floats2d]],
        name: str = "ner",
        *,
        decoder: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
        threshold: float = 0.0,
        overwrite: bool = False,
        transition_weight: float = 0.0,
        teacher_weight: float = 0.0,
        scorer: Callable | None = None,
    ) -> None:
        self.vocab = vocab
        self.model = model
        self.name = name
        self.decoder = decoder
        self.scorer = scorer
        self.cfg = {
            "labels": [],
            "threshold": threshold,
            "overwrite": overwrite,
            "transition_weight": transition_weight,
            "teacher_weight": teacher_weight,
            "tag_pairs": [],
        }
        if not Span.has_extension("confidence"):
            Span.set_extension("confidence", default=None)

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (tuple[str, ...]): The labels, in the order of the model's classes."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> tuple[str, ...]:
        """RETURNS (tuple[str, ...]): What `initialize` takes as `labels`."""
        return self.labels

    @property
    def threshold(self) -> float:
        """RETURNS (float): Least confidence of a span that is kept; can be set."""
        return self.cfg["threshold"]

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.cfg["threshold"] = value

    @property
    def transitions(self) -> np.ndarray:
        """What the decoder adds for each tag after each other.

        A classifier of tokens does not know its neighbours' tags. As in the hybrids of Bourlard &
        Morgan (1994, chapter 7) its posterior is divided by the prior and multiplied by the
        transition, here to the power of `transition_weight`.

        RETURNS (np.ndarray): The last row is for the first token of a line. Shape:
            (n_tags + 1, n_tags).
        """
        n_tags = 1 + 2 * len(self.labels)
        if not self.cfg["transition_weight"] or not self.cfg["tag_pairs"]:
            return np.zeros((n_tags + 1, n_tags))
        pairs = np.array(self.cfg["tag_pairs"]) + 0.5
        share = pairs.sum(axis=0) / pairs.sum()
        lift = pairs / pairs.sum(axis=1, keepdims=True) / share
        return self.cfg["transition_weight"] * np.log(lift)

    def add_label(self, label: str) -> int:
        """Add a label before the model is initialised.

        label (str): The label.
        RETURNS (int): 1 if it is new, 0 otherwise.
        RAISES (ValueError): The label is empty, or the model already has its classes.
        """
        if not isinstance(label, str) or not label:
            raise ValueError(f"Expected a label as a non-empty string, found {label!r}.")
        if label in self.labels:
            return 0
        if self.model.has_dim("nO"):
            raise ValueError(
                f"Can't add label {label!r}: the model was initialised with {list(self.labels)}. "
                "Train a new pipeline on posts that have the label."
            )
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        return 1

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,  # noqa: ARG002 (spaCy's signature)
        labels: Iterable[str] | None = None,
    ) -> None:
        """Take the labels from the examples (or from `labels`) and initialise the model.

        get_examples (Callable[[], Iterable[Example]]): Returns gold examples.
        nlp (Language | None): The current pipeline.
        labels (Iterable[str] | None): The labels, in the order of classes.
        RAISES (ValueError): There is no label.
        """
        validate_get_examples(get_examples, "SkillNER.initialize")
        examples = list(get_examples())
        if labels is None:
            labels = sorted({ent.label_ for eg in examples for ent in eg.reference.ents})
        for label in labels:
            self.add_label(label)
        if not self.labels:
            raise ValueError("Expected at least one label, found no entity in the examples.")
        self.cfg["tag_pairs"] = self._count_tag_pairs(examples)
        self.model.set_dim("nO", 1 + 2 * len(self.labels))
        self.model.initialize(X=[eg.x for eg in examples[:10] if len(eg.x)])

    def _count_tag_pairs(self, examples: list[Example]) -> list[list[int]]:
        """RETURNS (list[list[int]]): How often each tag follows each other, as `transitions`."""
        n_tags = 1 + 2 * len(self.labels)
        counts = np.zeros((n_tags + 1, n_tags), dtype=int)
        for example in examples:
            tags, before = [*self._gold_classes(example)], n_tags
            for i in _decoded_tokens(example.predicted).tolist():
                if example.predicted[i].is_space:
                    before = n_tags
                elif tags[i] >= 0:
                    counts[before, tags[i]] += 1
                    before = tags[i]
        return counts.tolist()

    def predict(self, docs: Iterable[Doc]) -> list[np.ndarray]:
        """Find the spans of a batch of docs without modifying them.

        docs (Iterable[Doc]): The docs, already seen by the transformer.
        RETURNS (list[np.ndarray]): For each doc, records of start and end token, label index and
            confidence, in order.
        """
        docs = list(docs)
        if not any(len(doc) for doc in docs):
            empty = self.decoder(np.zeros((0, 3)), np.zeros(1, dtype=int), np.zeros((4, 3)))
            return [empty for _ in docs]
        logits = [self.model.ops.to_numpy(rows) for rows in self.model.predict(docs)]
        kept = [_decoded_tokens(doc) for doc in docs]
        lengths = np.array([len(tokens) for tokens in kept])
        flat = np.concatenate([rows[tokens] for rows, tokens in zip(logits, kept, strict=True)])
        spans = self.decoder(flat, lengths, self.transitions)
        token = np.concatenate(kept)
        bounds = np.searchsorted(spans["start"], np.cumsum(lengths) - lengths)
        spans["start"], spans["end"] = token[spans["start"]], token[spans["end"] - 1] + 1
        return np.split(spans, bounds[1:])

    def set_annotations(self, docs: Iterable[Doc], predictions: list[np.ndarray]) -> None:
        """Write the spans to `doc.ents`.

        docs (Iterable[Doc]): The docs.
        predictions (list[np.ndarray]): What `predict` returned for them.
        """
        for doc, records in zip(docs, predictions, strict=True):
            spans = []
            for start, end, label, confidence in records[
                records["confidence"] >= self.cfg["threshold"]
            ].tolist():
                span = Span(doc, start, end, label=self.labels[label])
                span._.confidence = confidence
                spans.append(span)
            if doc.ents and not self.cfg["overwrite"]:
                taken = {i for ent in doc.ents for i in range(ent.start, ent.end)}
                free = [s for s in spans if taken.isdisjoint(range(s.start, s.end))]
                spans = filter_spans([*doc.ents, *free])
            doc.set_ents(spans)

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from a batch of examples.

        examples (Iterable[Example]): Predicted docs and their gold entities.
        drop (float): Dropout before the linear layer.
        sgd (Optimizer | None): The optimizer; gradients are only added up without one.
        losses (dict[str, float] | None): Updated with this component's cross-entropy.
        RETURNS (dict[str, float]): The losses.
        """
        examples = list(examples)
        validate_examples(examples, "SkillNER.update")
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        if not any(len(eg.predicted) for eg in examples):
            return losses
        set_dropout_rate(self.model, drop)
        logits, backprop = self.model.begin_update([eg.predicted for eg in examples])
        loss, d_logits = self.get_loss(examples, logits)
        backprop(d_logits)
        if sgd is not None:
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def get_loss(
        self, examples: Iterable[Example], scores: list[Floats2d]
    ) -> tuple[float, list[Floats2d]]:
        """Mean cross-entropy of the examples' tokens, as the reference trainer computes it.

        Tokens without wordpieces, without annotation or not aligned with it do not count. Where a
        reference has `user_data["teacher"]`, the probabilities that a larger model gives the tags
        (shape: (n_tokens, n_classes)), the target is a mean of these and the annotation, or these
        alone where there is no annotation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531,
        at temperature 1).

        examples (Iterable[Example]): The examples.
        scores (list[Floats2d]): The model's logits. Shape of each: (n_tokens, n_classes).
        RETURNS (tuple[float, list[Floats2d]]): The loss and its gradient.
        RAISES (ValueError): An entity has a label that the model does not know.
        """
        ops, xp = self.model.ops, self.model.ops.xp
        logits = xp.concatenate([rows for rows in scores if len(rows)])
        targets = ops.asarray2f(np.concatenate([self._targets(eg) for eg in examples]))
        counted = targets.any(axis=1) & ~xp.isneginf(logits[:, 1])
        rows, targets = logits[counted], targets[counted]
        shifted = rows - rows.max(axis=1, keepdims=True)
        log_probs = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
        n_tokens = max(len(rows), 1)
        d_logits = xp.zeros_like(logits)
        d_logits[counted] = (xp.exp(log_probs) - targets) / n_tokens
        loss = -float((targets * log_probs).sum()) / n_tokens
        return loss, ops.unflatten(d_logits, [len(rows) for rows in scores])

    def _targets(self, example: Example) -> np.ndarray:
        """The probability that each tag ought to get; a row of zeros is a token of none."""
        gold = np.array([*self._gold_classes(example)], dtype=int)
        targets = np.zeros((len(gold), 1 + 2 * len(self.labels)), dtype="float32")
        known = gold >= 0
        targets[np.flatnonzero(known), gold[known]] = 1.0
        teacher = example.reference.user_data.get("teacher")
        if teacher is not None:
            share = np.where(known, self.cfg["teacher_weight"], 1.0)[:, None]
            targets = (1 - share) * targets + share * teacher
        return targets

    def _gold_classes(self, example: Example) -> Iterator[int]:
        classes: dict[Any, int] = {None: -1, "": -1, "-": -1, "O": 0}
        for i, label in enumerate(self.labels):
            classes.update({f"{prefix}-{label}": 1 + 2 * i for prefix in "BU"})
            classes.update({f"{prefix}-{label}": 2 + 2 * i for prefix in "IL"})
        for tag in example.get_aligned_ner():
            if tag not in classes:
                raise ValueError(
                    f"Expected one of the labels {list(self.labels)}, found {tag[2:]!r} in "
                    f"{example.text[:60]!r}: train a new pipeline to add labels."
                )
            yield classes[tag]


def _decoded_tokens(doc: Doc) -> np.ndarray:
    """Tokens that the decoder sees: all but blanks within a line, which do not end a span."""
    keep = np.ones(len(doc), dtype=bool)
    for i in np.flatnonzero(doc.to_array([IS_SPACE])).tolist():
        keep[i] = bool(doc[i].text.strip(" \u00a0"))
    return np.flatnonzero(keep)
