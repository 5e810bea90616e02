"""What a user does with the pipeline, on a small real transformer."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from conftest import POSTS, ROOT, found, gold, make_examples, make_nlp, make_post, overfit
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import load_config
from thinc.api import Adam, Model, fix_random_seed, to_numpy

from scripts.skill_ner.decoder import decode_bio
from scripts.skill_ner.ner import SkillNER
from scripts.skill_ner.transformer import mask_pieces

TEXTS = [post["text"] for post in POSTS]


def confidences(doc: Doc) -> list[float]:
    return [ent._.confidence for ent in doc.ents]


def close(left: Doc, right: Doc) -> bool:
    """The same entities, with confidences alike to the rounding of padded batches."""
    return found(left) == found(right) and np.allclose(
        confidences(left), confidences(right), atol=1e-5
    )


def test_overfits_and_survives_disk_bytes_and_pickle(trained: Language, tmp_path: Path) -> None:
    docs = [trained(text) for text in TEXTS]
    assert [found(doc) for doc in docs] == [gold(post) for post in POSTS]
    assert all(0.5 < p <= 1 for doc in docs for p in confidences(doc))
    trained.to_disk(tmp_path / "model")
    from_bytes = spacy.blank("en").from_config(trained.config).from_bytes(trained.to_bytes())
    copies = [spacy.load(tmp_path / "model"), from_bytes, pickle.loads(pickle.dumps(trained))]
    for nlp in copies:
        assert all(close(nlp(text), doc) for text, doc in zip(TEXTS, docs, strict=True))
    assert copies[0].get_pipe("ner").labels == ("SOFT", "TECHNOLOGY")


def test_pipe_equals_call(trained: Language) -> None:
    texts = [*TEXTS, "", "\n\n", TEXTS[0] * 30] * 3
    for batch_size in (1, 4, 100):
        for text, doc in zip(texts, trained.pipe(texts, batch_size=batch_size), strict=True):
            assert close(doc, trained(text))


def test_learns_with_a_loss_that_falls_to_zero(encoder: Path) -> None:
    nlp = make_nlp(encoder)
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples, sgd=Adam(0.003))
    losses = [nlp.update(make_examples(nlp), sgd=optimizer)["ner"] for _ in range(60)]
    assert losses[-1] < 0.01 < 0.5 < losses[0]


def test_encoder_learns_too(encoder: Path) -> None:
    nlp = make_nlp(encoder)
    examples = make_examples(nlp)
    optimizer = nlp.initialize(lambda: examples, sgd=Adam(0.003))
    weight = nlp.get_pipe("transformer").model.layers[0].shims[0]._model.embeddings.LayerNorm.weight
    before = weight.detach().clone()
    for _ in range(2):  # spaCy updates a component before those that listen to it have learned
        nlp.update(make_examples(nlp), sgd=optimizer)
    assert not np.allclose(before, weight.detach())


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "\n \n\t", "\u200b", "\u200b\ufeff\n", "🙂", "ß ﬁ é"]
)
def test_odd_docs(trained: Language, text: str) -> None:
    doc = trained(text)
    assert doc.text == text
    assert all(ent.text.strip() for ent in doc.ents)


def test_long_posts_lines_and_tokens_lose_nothing(trained: Language) -> None:
    many_lines = "\n".join(TEXTS * 50)
    doc = trained(many_lines)
    names = [ent.text for ent in doc.ents]
    assert names.count("Python") == 100
    one_line = " ".join(text.replace("\n", " ") for text in TEXTS * 20)
    assert [ent.text for ent in trained(one_line).ents].count("SQL") >= 18
    token = "https://x.com/" + "a" * 50 + "/b" * 200
    doc = trained(f"{TEXTS[0]}\n{token}\n{TEXTS[1]}")
    assert [ent.text for ent in doc.ents if ent.text != token] == [
        TEXTS[i][s["start"] : s["end"]] for i in (0, 1) for s in POSTS[i]["spans"]
    ]


def test_longer_than_max_length_is_a_clear_error(trained: Language) -> None:
    with pytest.raises(ValueError, match="max_length"):
        trained("a " * (trained.max_length // 2 + 1))


def test_spans_cross_blanks_but_not_lines() -> None:
    nlp = spacy.blank("en")
    doc = nlp("machine  learning, machine\nlearning")

    def logits(model: Model, docs: list[Doc], is_train: bool) -> tuple:  # noqa: ARG001
        begin = {"machine": 1, "learning": 2}
        rows = np.zeros((len(docs[0]), 3), dtype="float32")
        for i, token in enumerate(docs[0]):
            rows[i, begin.get(token.text, 0)] = 9.0
            rows[i, 1:] -= np.inf if token.is_space else 0.0
        return [rows], None

    ner = SkillNER(nlp.vocab, Model("fixed", logits), decoder=decode_bio)
    ner.add_label("TECHNICAL")
    assert [ent.text for ent in ner(doc).ents] == ["machine  learning", "machine"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_processes(trained: Language, tmp_path: Path, method: str) -> None:
    # In a process of its own: the start method can be set once only.
    trained.to_disk(tmp_path / "model")
    script = tmp_path / "run.py"
    script.write_text(f"""
import multiprocessing, sys
sys.path.insert(0, {str(ROOT)!r})
import spacy, scripts.skill_ner
if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    nlp = spacy.load({str(tmp_path / "model")!r})
    texts = {TEXTS!r} * 4
    nlp(texts[0])  # torch has its threads before the fork
    for doc in nlp.pipe(texts, n_process=2, batch_size=2):
        print([(e.text, e.label_, round(e._.confidence, 3)) for e in doc.ents])
""")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [
        str([(e.text, e.label_, round(e._.confidence, 3)) for e in trained(text).ents])
        for text in TEXTS
    ]
    assert done.stdout.splitlines() == expected * 4


def test_confidence_is_kept_by_bytes_and_docbin(trained: Language) -> None:
    doc = trained(TEXTS[0])
    doc._.trf_data = None
    again = Doc(trained.vocab).from_bytes(doc.to_bytes())
    binned = DocBin(docs=[doc], store_user_data=True).to_bytes()
    (stored,) = DocBin().from_bytes(binned).get_docs(trained.vocab)
    assert confidences(again) == confidences(stored) == confidences(doc) != []


def test_threshold(trained: Language, tmp_path: Path) -> None:
    trained.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    all_found = nlp(TEXTS[0])
    least = sorted(confidences(all_found))[1]
    nlp.get_pipe("ner").threshold = least
    kept = nlp(TEXTS[0])
    assert confidences(kept) == [p for p in confidences(all_found) if p >= least]
    assert len(kept.ents) == len(all_found.ents) - 1
    nlp.to_disk(tmp_path / "again")
    assert spacy.load(tmp_path / "again").get_pipe("ner").threshold == pytest.approx(least)


@pytest.mark.parametrize("overwrite", [False, True])
def test_entities_that_a_doc_already_has(
    trained: Language, tmp_path: Path, overwrite: bool
) -> None:
    trained.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model", config={"components.ner.overwrite": overwrite})
    nlp.get_pipe("ner").cfg["overwrite"] = overwrite
    doc = nlp.make_doc(TEXTS[0])
    doc.ents = [Span(doc, 1, 4, label="MINE")]  # "need Python and"
    doc = nlp(doc)
    expected = gold(POSTS[0]) if overwrite else [(3, 18, "MINE"), *gold(POSTS[0])[1:]]
    assert found(doc) == expected


def test_select_pipes(trained: Language) -> None:
    with trained.select_pipes(disable=["ner"]):
        assert trained(TEXTS[0]).ents == ()
    with trained.select_pipes(enable=["transformer", "ner"]):
        assert found(trained(TEXTS[0])) == gold(POSTS[0])


def test_evaluate(trained: Language) -> None:
    scores = trained.evaluate(make_examples(trained))
    assert scores["ents_f"] == 1.0
    wrong = make_examples(trained)
    for example in wrong:
        example.reference.ents = []
    assert trained.evaluate(wrong)["ents_p"] == 0.0


def test_spacy_evaluate(trained: Language, tmp_path: Path) -> None:
    trained.to_disk(tmp_path / "model")
    docs = [example.reference for example in make_examples(trained)]
    DocBin(docs=docs).to_disk(tmp_path / "gold.spacy")
    command = [sys.executable, "-m", "spacy", "evaluate", tmp_path / "model"]
    command += [tmp_path / "gold.spacy", "--code", "scripts/skill_ner/__init__.py"]
    command += ["--output", tmp_path / "scores.json"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["ents_per_type"]["SOFT"]["f"] == scores["ents_f"] == 1.0


def test_another_component_listens_after_it(encoder: Path) -> None:
    nlp = make_nlp(encoder)
    listener = {
        "@architectures": "spacy-transformers.TransformerListener.v1",
        "grad_factor": 1.0,
        "upstream": "*",
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    model = {"@architectures": "spacy.Tagger.v2", "nO": None, "normalize": False}
    nlp.add_pipe("tagger", config={"model": {**model, "tok2vec": listener}})

    def examples() -> list[Example]:
        made = make_examples(nlp, [p for p in POSTS if "\n" in p["text"]])
        for example in made:
            for token in example.reference:
                token.tag_ = "NL" if token.is_space else "W"
        return made

    optimizer = nlp.initialize(examples, sgd=Adam(0.003))
    for _ in range(40):
        nlp.update(examples(), sgd=optimizer)
    for doc in nlp.pipe(TEXTS):
        assert {t.tag_ for t in doc if not t.is_space} == {"W"}
    assert found(nlp(TEXTS[0])) == gold(POSTS[0])


def test_listeners_can_be_replaced(trained: Language, tmp_path: Path) -> None:
    trained.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])
    nlp.remove_pipe("transformer")
    assert found(nlp(TEXTS[0])) == gold(POSTS[0])
    nlp.to_disk(tmp_path / "alone")
    assert found(spacy.load(tmp_path / "alone")(TEXTS[0])) == gold(POSTS[0])


def test_fine_tuning_on_a_users_posts(trained: Language, tmp_path: Path) -> None:
    trained.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    text = "We build in pandas."
    mine = {"text": text, "spans": [{"start": 12, "end": 18, "label": "TECHNOLOGY"}], "meta": {}}
    optimizer = nlp.resume_training(sgd=Adam(0.002))
    for _ in range(30):
        nlp.update(make_examples(nlp, [mine, *POSTS]), sgd=optimizer)
    assert found(nlp(text)) == [(12, 18, "TECHNOLOGY")]


def test_labels_come_from_the_data_and_are_then_fixed(encoder: Path, trained: Language) -> None:
    other = [{**POSTS[0], "spans": [{"start": 8, "end": 14, "label": "TOOL"}]}]
    nlp = make_nlp(encoder)
    nlp.initialize(lambda: make_examples(nlp, other), sgd=Adam())
    assert nlp.get_pipe("ner").labels == ("TOOL",)
    with pytest.raises(ValueError, match="TOOL"):
        nlp.get_pipe("ner").add_label("NEW")
    with pytest.raises(ValueError, match="'TOOL'"):
        trained.update(make_examples(trained, other), sgd=Adam(0.0))


def test_default_config_is_the_shipped_one() -> None:
    config = load_config(ROOT / "configs" / "minilm.cfg")
    nlp = spacy.blank("en")
    nlp.add_pipe("skill_ner", name="ner")
    shipped = dict(config["components"]["ner"])
    added = dict(nlp.get_pipe_config("ner"))
    assert added.pop("factory") == shipped.pop("factory")
    assert added == shipped


def test_transitions_are_counted_within_lines_and_weighted(encoder: Path) -> None:
    posts = [make_post("python sql data\njava  data", ["python", "sql", "java"], [], "a")]
    nlp = make_nlp(encoder, ner__transition_weight=0.5)
    nlp.initialize(lambda: make_examples(nlp, posts))
    # Tags: outside, begin, inside. Lines: B B O and B O; the doubled blank is passed over.
    counts = np.array([[0, 0, 0], [2, 1, 0], [0, 0, 0], [0, 2, 0]])
    assert nlp.get_pipe("ner").cfg["tag_pairs"] == counts.tolist()
    smooth = counts + 0.5
    share = smooth.sum(axis=0) / smooth.sum()
    expected = np.log(smooth / smooth.sum(axis=1, keepdims=True) / share)
    assert nlp.get_pipe("ner").transitions == pytest.approx(0.5 * expected, abs=1e-4)
    assert not make_nlp(encoder).get_pipe("ner").transitions.any()


def test_transitions_change_what_is_found_and_survive_bytes(trained: Language) -> None:
    nlp = spacy.blank("en").from_config(trained.config)
    nlp.from_bytes(trained.to_bytes())
    ner = nlp.get_pipe("ner")
    assert ner.transitions.any()
    assert np.array_equal(ner.transitions, trained.get_pipe("ner").transitions)
    assert found(nlp(TEXTS[0])) == gold(POSTS[0])
    # Where tags in spans hardly ever follow, none is found.
    ner.cfg |= {"tag_pairs": [[1, 10**9, 1, 1, 1]] * 5 + [[10**9, 0, 0, 0, 0]]}
    ner.cfg["transition_weight"] = 100.0
    assert found(nlp("Python")) == []
    ner.cfg["transition_weight"] = 0.0
    assert found(nlp("Python")) != []


def states(nlp: Language, is_train: bool) -> np.ndarray:
    """The encoder's output for the first post."""
    doc = nlp.make_doc(POSTS[0]["text"])
    batch, _ = nlp.get_pipe("transformer").model([doc], is_train)
    return to_numpy(batch.doc_data[0].model_output.last_hidden_state)


def test_masking_hides_words_in_training_only(encoder: Path) -> None:
    plain, masked = (make_nlp(encoder, transformer__model__masking=m) for m in (0.0, 1.0))
    for nlp in (plain, masked):
        fix_random_seed(0)
        nlp.initialize(lambda nlp=nlp: make_examples(nlp))
    transformer = masked.get_pipe("transformer").model
    tokenizer = transformer.layers[0].shims[0]._hfmodel.tokenizer
    seen = []
    model = transformer.layers[0].shims[0]._model
    model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True
    )
    docs = [masked.make_doc(post["text"]) for post in POSTS]
    transformer(docs, True)
    transformer(docs, False)
    hidden, shown = seen
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    assert {*hidden.unique().tolist()} == special | {tokenizer.mask_token_id}
    assert tokenizer.mask_token_id not in shown
    assert np.array_equal(states(plain, False), states(masked, False))


def test_masking_hides_the_share_asked_for(encoder: Path) -> None:
    nlp = make_nlp(encoder)
    nlp.initialize(lambda: make_examples(nlp))
    tokenizer = nlp.get_pipe("transformer").model.layers[0].shims[0]._hfmodel.tokenizer
    ids = np.full((100, 100), tokenizer.vocab["python"])
    ids[:, 0] = tokenizer.cls_token_id
    fix_random_seed(0)
    mask_pieces(tokenizer, ids, 0.2)
    assert (ids[:, 0] == tokenizer.cls_token_id).all()
    assert (ids == tokenizer.mask_token_id).mean() == pytest.approx(0.2, abs=0.02)


def test_bfloat16_trains_and_leaves_weights_and_inference_in_single_precision(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.skill_ner.transformer.has_bfloat16", lambda: True)
    nlp = overfit(make_nlp(encoder, transformer__model__bfloat16=True))
    for post in POSTS:
        assert found(nlp(post["text"])) == gold(post)
    model = nlp.get_pipe("transformer").model.layers[0].shims[0]._model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = states(nlp, False)
    nlp.get_pipe("transformer").model.attrs["bfloat16"] = False
    assert np.array_equal(states(nlp, False), exact)


def test_transformer_config_changes_the_encoder_and_is_saved(encoder: Path, tmp_path: Path) -> None:
    nlp = make_nlp(encoder)
    nlp.initialize(lambda: make_examples(nlp))
    nlp.to_disk(tmp_path / "model")
    for each in (nlp, spacy.load(tmp_path / "model")):
        model = each.get_pipe("transformer").model.layers[0].shims[0]._model
        assert model.config.attention_probs_dropout_prob == 0.0
        assert model.config.hidden_dropout_prob == 0.1
