"""Training as a user runs it: results table, reproducible, resumed, refusing what it can't do."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from conftest import POSTS, ROOT, make_examples, make_nlp, write_posts
from spacy.language import Language
from spacy.util import load_config
from thinc.api import Adam
from typer.testing import CliRunner

from scripts.convert import convert
from scripts.encoder import read_encoder
from scripts.train import Run, app, clip_gradients

COLUMNS = {
    "training_loss",
    "epoch",
    "step",
    "validation_loss",
    "precision",
    "recall",
    "f1",
    "accuracy",
}
# Quick on the small encoder; everything else is as shipped.
QUICK = ["--training.max_epochs=3", "--training.optimizer.learn_rate.initial_rate=0.003"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """POSTS many times over, with words that keep them apart, as corpora."""
    path = tmp_path_factory.mktemp("corpus")
    posts = []
    for i in range(60):
        post = POSTS[i % len(POSTS)]
        tail = " ".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=60))
        posts.append({**post, "text": f"{post['text']}\n{tail}", "meta": {"id": str(i)}})
    convert([write_posts(path / "posts.jsonl", posts)], path)
    return path


def arguments(corpus: Path, encoder: Path, output: Path, *more: str) -> list[str]:
    """Command line of a training run."""
    named = {"encoder": encoder, "train": corpus / "train.spacy", "dev": corpus / "dev.spacy"}
    named |= {"output": output, "metrics": output / "train.json"}
    named["config"] = ROOT / "configs" / "minilm.cfg"
    return [*(f"--{name}={value}" for name, value in named.items()), *QUICK, *more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, as the command line does."""
    command = [sys.executable, "-m", "scripts.train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def weights(model: Path) -> str:
    """SHA-256 over the weights of a pipeline on disk."""
    nlp = spacy.load(model)
    module = nlp.get_pipe("transformer").model.layers[0].shims[0]._model
    linear = nlp.get_pipe("ner").model.get_ref("linear")
    digest = hashlib.sha256(linear.get_param("W").tobytes() + linear.get_param("b").tobytes())
    for weight in module.state_dict().values():
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def unbroken(corpus: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("unbroken")
    done = run(arguments(corpus, encoder, output))
    assert done.returncode == 0, done.stderr
    return output


def test_writes_the_best_epoch_and_the_results_table(unbroken: Path) -> None:
    results = json.loads((unbroken / "train.json").read_text())
    assert [set(row) for row in results["rows"]] == [COLUMNS] * 3
    assert [row["epoch"] for row in results["rows"]] == [1, 2, 3]
    steps = [row["step"] for row in results["rows"]]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]
    best = max(results["rows"], key=lambda row: row["f1"])
    assert results["best_epoch"] == best["epoch"]
    nlp = spacy.load(unbroken / "model-best")
    assert nlp.meta["performance"]["ents_f"] == best["f1"] > 0.9
    assert nlp.meta["encoder"]["name"] == results["encoder"]["name"] == "tiny"
    assert results["peak_mib"] > 0
    assert not (unbroken / "checkpoint").exists()
    rate = nlp.config["training"]["optimizer"]["learn_rate"]
    assert rate["total_steps"] == steps[-1]


def test_two_runs_give_the_same_weights(
    unbroken: Path, corpus: Path, encoder: Path, tmp_path: Path
) -> None:
    done = run(arguments(corpus, encoder, tmp_path))
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "model-best") == weights(unbroken / "model-best")
    again = run(arguments(corpus, encoder, tmp_path / "other", "--system.seed=7"))
    assert again.returncode == 0, again.stderr
    assert weights(tmp_path / "other" / "model-best") != weights(unbroken / "model-best")


def test_a_killed_run_resumes_to_the_same_result(
    unbroken: Path, corpus: Path, encoder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "scripts.train", *arguments(corpus, encoder, tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint" / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert not (tmp_path / "model-best").exists()
    done = run(arguments(corpus, encoder, tmp_path, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "anew" not in done.stdout
    assert weights(tmp_path / "model-best") == weights(unbroken / "model-best")
    resumed, whole = (
        json.loads((path / "train.json").read_text())["rows"] for path in (tmp_path, unbroken)
    )
    assert resumed == whole


def test_a_checkpoint_of_other_settings_is_not_resumed(
    corpus: Path, encoder: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.train", *arguments(corpus, encoder, tmp_path)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "checkpoint" / "state.json").exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    more = ["--resume", "--training.dropout=0.2", "--training.max_steps=1"]
    done = run(arguments(corpus, encoder, tmp_path, *more))
    assert done.returncode == 0, done.stderr
    assert "starting anew" in done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--training.patience=5"], "patience"),
        (["--training.optimizer.use_averages=true"], "use_averages"),
        (["--train=nowhere.spacy"], "nowhere.spacy"),
        (["--encoder=nowhere"], "scripts.encoder"),
        (["--config=nowhere.cfg"], "nowhere.cfg"),
        (["--components.ner.tresh=5"], "tresh"),
        (["stray"], "stray"),
    ],
)
def test_a_users_mistake_ends_in_a_message(
    corpus: Path, encoder: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    done = CliRunner().invoke(app, [*arguments(corpus, encoder, tmp_path), *more])
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "model-best").exists()


def test_gradients_are_clipped_over_all_parameters(encoder: Path) -> None:
    nlp = make_nlp(encoder)
    nlp.initialize(lambda: make_examples(nlp), sgd=Adam())
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=False)
    module = nlp.get_pipe("transformer").model.layers[0].shims[0]._model
    linear = nlp.get_pipe("ner").model.get_ref("linear")

    def norm() -> float:
        head = [torch.from_numpy(linear.get_grad(name)) for name in ("W", "b")]
        body = [p.grad for p in module.parameters() if p.grad is not None]
        return float(torch.cat([g.ravel() for g in [*head, *body]]).norm())

    before = norm()
    assert clip_gradients(nlp, before * 2) == pytest.approx(before, rel=1e-4)
    assert norm() == pytest.approx(before, rel=1e-6)
    clip_gradients(nlp, before / 4)
    assert norm() == pytest.approx(before / 4, rel=1e-4)


def test_the_mean_of_the_weights_is_validated_and_kept(corpus: Path, encoder: Path) -> None:
    paths = {"train": corpus / "train.spacy", "dev": corpus / "dev.spacy", "encoder": encoder}
    config = load_config(
        ROOT / "configs" / "minilm.cfg",
        {f"paths.{name}": str(path) for name, path in paths.items()} | {"training.max_steps": 4},
        interpolate=True,
    )
    run = Run(config, read_encoder(encoder), corpus / "unused")
    weight = next(run.nlp.get_pipe("transformer").model.layers[0].shims[0]._model.parameters())
    mean = weight.detach().clone()
    for step, batch in zip(range(1, 5), run.batcher(run.examples), strict=False):
        run._update(batch)
        decay = (1 + step) / (10 + step)
        mean = decay * mean + (1 - decay) * weight.detach()
    last = weight.detach().clone()
    assert not torch.allclose(mean, last)
    with run.averaged():
        assert torch.allclose(weight, mean)
    assert torch.equal(weight, last)


@pytest.mark.parametrize("name", ["bert_base_cased", "mpnet"])
def test_reference_recipe(name: str) -> None:
    training = load_config(ROOT / "configs" / f"{name}.cfg", interpolate=True)["training"]
    assert training["batcher"]["size"] == 4
    assert (training["seed"], training["max_epochs"], training["dropout"]) == (42, 2, 0.1)
    assert training["optimizer"] == {
        "@optimizers": "Adam.v1",
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "L2": 0.0,
        "L2_is_weight_decay": False,
        "grad_clip": 1.0,
        "use_averages": False,
        "learn_rate": {
            "@schedules": "warmup_linear.v1",
            "initial_rate": 2e-5,
            "warmup_steps": 0,
            "total_steps": 0,
        },
    }


def test_reference_config_runs_on_a_cased_bert(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    more = [f"--config={ROOT / 'configs' / 'bert_base_cased.cfg'}", "--training.max_steps=3"]
    done = CliRunner().invoke(app, arguments(corpus, encoder, tmp_path, *more))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "train.json").read_text())["rows"][-1]["step"] == 3


def test_learn_rate_falls_to_zero_with_the_last_step(unbroken: Path) -> None:
    nlp: Language = spacy.load(unbroken / "model-best")
    optimizer = nlp.create_optimizer()
    total = nlp.config["training"]["optimizer"]["learn_rate"]["total_steps"]
    rates = []
    for _ in range(total + 1):
        rates.append(float(optimizer.learn_rate))
        optimizer.step_schedules()
    assert np.allclose(rates, 0.003 * (1 - np.arange(total + 1) / total))
