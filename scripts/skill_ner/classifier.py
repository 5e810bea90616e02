"""A linear BIO classifier over token vectors, like BertForTokenClassification."""

from collections.abc import Callable

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Dropout, Linear, Model, chain
from thinc.types import Floats2d, Ragged


@registry.layers("skill_ner.FirstPiece.v1")
def create_first_piece() -> Model[Ragged, Floats2d]:
    """Represent a token by its first wordpiece (Devlin et al. 2019, section 5.3).

    RETURNS (Model[Ragged, Floats2d]): One row a token; zeros for a token without wordpieces.
    """
    return Model("first_piece", _first_piece)


def _first_piece(model: Model, pieces: Ragged, is_train: bool) -> tuple[Floats2d, Callable]:  # noqa: ARG001
    xp = model.ops.xp
    lengths = model.ops.asarray1i(pieces.lengths)
    filled = lengths > 0
    first = (xp.cumsum(lengths) - lengths)[filled]
    rows = model.ops.alloc2f(len(lengths), pieces.dataXd.shape[1])
    rows[filled] = pieces.dataXd[first]

    def backprop(d_rows: Floats2d) -> Ragged:
        d_pieces = model.ops.alloc2f(*pieces.dataXd.shape)
        d_pieces[first] = d_rows[filled]
        return Ragged(d_pieces, pieces.lengths)

    return rows, backprop


@registry.architectures("skill_ner.LinearBIO.v1")
def create_linear_bio(
    tok2vec: Model[list[Doc], list[Floats2d]], nO: int | None = None
) -> Model[list[Doc], list[Floats2d]]:
    """Build the classifier: dropout, then one linear layer.

    tok2vec (Model[list[Doc], list[Floats2d]]): Token vectors; a row of zeros is a token that
        the encoder did not see, and is always outside of a span.
    nO (int | None): Classes: one for outside, two (begin, inside) for each label.
    RETURNS (Model[list[Doc], list[Floats2d]]): Logits. Shape of each: (n_tokens, nO).
    """
    linear = Linear(nO)
    return Model(
        "linear_bio",
        _forward,
        init=_init,
        layers=[tok2vec, chain(Dropout(), linear)],
        dims={"nO": nO},
        refs={"tok2vec": tok2vec, "linear": linear},
    )


def _init(model: Model, X: list[Doc] | None = None, Y: None = None) -> None:  # noqa: ARG001
    tok2vec, linear = model.get_ref("tok2vec"), model.get_ref("linear")
    tok2vec.initialize(X=X)
    if not linear.has_dim("nI"):
        linear.set_dim("nI", tok2vec.predict(X)[0].shape[1])
    linear.set_dim("nO", model.get_dim("nO"))
    linear.initialize()


def _forward(
    model: Model, docs: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    tok2vec, output = model.layers
    rows, backprop_tok2vec = tok2vec(docs, is_train)
    lengths = [len(doc) for doc in docs]
    if not sum(lengths):
        return [model.ops.alloc2f(0, model.get_dim("nO")) for _ in docs], lambda _: docs
    vectors = model.ops.flatten(rows)
    unseen = ~vectors.any(axis=1)
    logits, backprop_output = output(vectors, is_train)
    logits[unseen, 0] = 0.0
    logits[unseen, 1:] = -model.ops.xp.inf

    def backprop(d_logits: list[Floats2d]) -> list[Doc]:
        d_flat = model.ops.flatten(d_logits)
        d_flat[unseen] = 0.0
        backprop_tok2vec(model.ops.unflatten(backprop_output(d_flat), lengths))
        return docs

    return model.ops.unflatten(logits, lengths), backprop
