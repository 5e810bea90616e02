"""A config, an encoder and corpora → a trained pipeline and its results table."""

import copy
import hashlib
import json
import math
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file
from spacy.cli._util import parse_config_overrides
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import load_config, load_model_from_config, registry, resolve_dot_names
from thinc.api import (
    Config,
    Optimizer,
    fix_random_seed,
    get_current_ops,
    set_gpu_allocator,
    to_numpy,
    xp2torch,
)
from tqdm import tqdm
from typer import Option as Opt

import scripts.skill_ner
import scripts.teach  # noqa: F401 (registers the reader of taught posts)
from scripts.encoder import read_encoder
from scripts.evaluate import doc_to_post, predict, score
from scripts.posts import write_json
from scripts.skill_ner.transformer import window_spans

USED = {
    "seed", "gpu_allocator", "train_corpus", "dev_corpus", "dropout", "max_epochs", "max_steps",
    "batcher", "optimizer", "average_weights",
}  # fmt: skip
COLUMNS = [
    "training_loss", "epoch", "step", "validation_loss", "precision", "recall", "f1", "accuracy",
]  # fmt: skip


def train_cli(
    ctx: typer.Context,
    config: Path | None = Opt(None, help="Config; without it, the one that the encoder names"),
    encoder: Path = Opt(Path("assets/encoder"), help="Encoder folder, from `scripts.encoder`"),
    train: Path = Opt(Path("corpus/train.spacy"), help="Training posts"),
    dev: Path = Opt(Path("corpus/dev.spacy"), help="Posts that choose the best epoch"),
    output: Path = Opt(Path("training"), help="Folder for model-best and the checkpoint"),
    metrics: Path | None = Opt(None, help="JSON file for the results table"),
    gpu_id: int = Opt(-1, help="GPU to use; -1: the CPU"),
    resume: bool = Opt(False, "--resume", help="Go on from an interrupted run's last epoch"),
) -> None:
    """Train the pipeline. Any setting of the config can be overridden: --training.max_epochs 3"""
    try:
        source = read_encoder(encoder)
        paths = {"paths.train": str(train), "paths.dev": str(dev), "paths.encoder": str(encoder)}
        path = config or Path("configs") / source["config"]
        settings = load_config(
            path, {**paths, **parse_config_overrides(ctx.args)}, interpolate=True
        )
        check_training(settings, path)
        for corpus in (train, dev):
            if not corpus.is_file():
                raise ValueError(f"{corpus}: not found, make it with `spacy project run convert`.")
        results = train_pipeline(settings, source, output, gpu_id=gpu_id, resume=resume)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. `--resume` goes on from the last finished epoch.")
    if metrics is not None:
        write_json(metrics, results)
    print_results(results)


def check_training(config: Config, path: Path) -> None:
    """Refuse settings that this loop would pass over in silence.

    RAISES (ValueError): `[training]` lacks a key, or has one that is not used here.
    """
    found = set(config["training"])
    if found != USED:
        unused, missing = sorted(found - USED), sorted(USED - found)
        raise ValueError(
            f"{path}: [training] has keys that scripts.train does not use: {unused}, and lacks "
            f"{missing}. Remove the first and add the second."
        )
    if config["training"]["optimizer"].get("use_averages"):
        raise ValueError(
            f"{path}: [training.optimizer] asks for use_averages, which passes over the encoder's "
            "weights: set it to false, and [training] average_weights to true."
        )


class Run:
    """One training run: the pipeline, its batches and optimizer, and what came out so far.

    rows (list[dict[str, Any]]): The results table, one row an epoch.
    """

    def __init__(self, config: Config, source: dict[str, Any], checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.nlp, self.examples, self.dev = _prepare(config)
        self.nlp.meta["name"] = "skill_ner"
        self.nlp.meta["encoder"] = {k: v for k, v in source.items() if k != "files"}
        training = config["training"]
        batcher = registry.resolve({"b": training["batcher"]})["b"]
        self.batcher: Callable[[list[Example]], Iterator[list[Example]]] = batcher
        steps_per_epoch = sum(1 for _ in batcher(self.examples))
        self.max_steps = training["max_steps"] or steps_per_epoch * training["max_epochs"]
        rate = training["optimizer"]["learn_rate"]
        if rate.get("total_steps") == 0:
            rate["total_steps"] = self.max_steps
        # What was used here, without spaCy's defaults for what this loop does not have.
        self.nlp.config["training"] = copy.deepcopy(training)
        self.optimizer: Optimizer = registry.resolve({"o": training["optimizer"]})["o"]
        self.seed, self.dropout = training["seed"], training["dropout"]
        self.rows: list[dict[str, Any]] = []
        self.step, self.seconds = 0, 0.0
        self.average: list[torch.Tensor] | None = None
        if training["average_weights"]:
            self.average = [weight.clone() for weight in _weights(self.nlp)]
        self.fingerprint = self.nlp.meta["trained_on"] = _fingerprint(config, source)

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Train until the last step.

        YIELDS (dict[str, Any]): The results of each epoch, once its checkpoint is written.
        """
        bar = tqdm(total=self.max_steps, initial=self.step, desc="steps", disable=None)
        with bar:
            while self.step < self.max_steps:
                started = time.monotonic()
                epoch = len(self.rows) + 1
                order = list(self.examples)
                # A shuffle of its own for each epoch, so that a resumed run needs no history.
                random.Random(f"{self.seed}:{epoch}").shuffle(order)
                losses = []
                for batch in self.batcher(order):
                    losses.append(self._update(batch))
                    bar.update()
                    bar.set_postfix(epoch=epoch, loss=f"{np.mean(losses[-50:]):.4f}")
                    if self.step >= self.max_steps:
                        break
                row = {"training_loss": round(float(np.mean(losses)), 5), "epoch": epoch}
                self.rows.append(row | {"step": self.step} | self._validate())
                self.seconds += time.monotonic() - started
                self._save()
                yield self.rows[-1]

    def _update(self, batch: list[Example]) -> float:
        losses: dict[str, float] = {}
        self.nlp.update(batch, drop=self.dropout, losses=losses, sgd=False)
        clip_gradients(self.nlp, self.optimizer.grad_clip)
        for _, pipe in self.nlp.pipeline:
            pipe.finish_update(self.optimizer)
        self.optimizer.step_schedules()
        self.step += 1
        # A running mean over about the last tenth of the steps so far, as thinc's averages are
        # (Polyak & Juditsky 1992); those pass over the weights of torch.
        for mean, weight in zip(
            self.average or [], _weights(self.nlp), strict=self.average is not None
        ):
            mean.lerp_(weight, 9 / (10 + self.step))
        return losses["ner"]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the mean weights in place of the last ones, if the config asks for them."""
        if self.average is None:
            yield
            return
        weights = [*_weights(self.nlp)]
        last = [weight.clone() for weight in weights]
        for weight, mean in zip(weights, self.average, strict=True):
            weight.copy_(mean)
        try:
            yield
        finally:
            for weight, value in zip(weights, last, strict=True):
                weight.copy_(value)

    def _validate(self) -> dict[str, Any]:
        with self.averaged():
            scores = score(list(predict(self.nlp, self.dev)))
        names = {
            "validation_loss": "loss",
            "precision": "ents_p",
            "recall": "ents_r",
            "f1": "ents_f",
        }
        self.nlp.meta["performance"] = {
            key: scores[key] for key in ("ents_p", "ents_r", "ents_f", "ents_per_type")
        }
        return {key: scores[name] for key, name in names.items()} | {"accuracy": scores["accuracy"]}

    def best(self) -> dict[str, Any]:
        """RETURNS (dict[str, Any]): The first of the epochs with the highest dev F1."""
        return max(self.rows, key=lambda row: row["f1"])

    def _save(self) -> None:
        """Replace the checkpoint by one of now, at once: a kill leaves the old one or the new."""
        partial, old = self.checkpoint.with_suffix(".partial"), self.checkpoint.with_suffix(".old")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if self.best() is self.rows[-1]:
            with self.averaged():
                self.nlp.to_disk(partial / "best")
        else:
            shutil.copytree(self.checkpoint / "best", partial / "best")
        arrays = {f"mean.{i}": mean.numpy(force=True) for i, mean in enumerate(self.average or [])}
        arrays |= {
            f"weight.{i}": each.numpy(force=True) for i, each in enumerate(_weights(self.nlp))
        }
        for i, key in enumerate(_parameter_keys(self.nlp)):
            for name, values in (("mom1", self.optimizer.mom1), ("mom2", self.optimizer.mom2)):
                if key in values:
                    arrays[f"{name}.{i}"] = to_numpy(values[key])
        save_file(arrays, partial / "last.safetensors")
        write_json(partial / "state.json", self._state())
        shutil.rmtree(old, ignore_errors=True)
        if self.checkpoint.exists():
            self.checkpoint.rename(old)
        partial.rename(self.checkpoint)
        shutil.rmtree(old, ignore_errors=True)

    def _state(self) -> dict[str, Any]:
        name, keys, position, has_gauss, cached = np.random.get_state()
        return {
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "step": self.step,
            "seconds": self.seconds,
            "random": random.getstate(),
            "numpy": [name, keys.tolist(), position, has_gauss, cached],
            "torch": torch.get_rng_state().tolist(),
        }

    def restore(self) -> bool:
        """Go back to the checkpoint, if there is one of the same config, encoder and posts.

        RETURNS (bool): Whether there was one.
        """
        old = self.checkpoint.with_suffix(".old")
        if old.exists() and not self.checkpoint.exists():
            old.rename(self.checkpoint)  # killed between the two renames of `_save`
        path = self.checkpoint / "state.json"
        if not path.is_file():
            return False
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["fingerprint"] != self.fingerprint:
            return False
        arrays, ops = load_file(self.checkpoint / "last.safetensors"), get_current_ops()
        for i, weight in enumerate(_weights(self.nlp)):
            weight.copy_(torch.from_numpy(arrays[f"weight.{i}"]))
        self.rows, self.step, self.seconds = state["rows"], state["step"], state["seconds"]
        for i, mean in enumerate(self.average or []):
            mean.copy_(torch.from_numpy(arrays[f"mean.{i}"]))
        for i, key in enumerate(_parameter_keys(self.nlp)):
            if f"mom1.{i}" in arrays:
                self.optimizer.mom1[key] = ops.asarray(arrays[f"mom1.{i}"])
                self.optimizer.mom2[key] = ops.asarray(arrays[f"mom2.{i}"])
                self.optimizer.nr_update[key] = self.step
        for _ in range(self.step):
            self.optimizer.step_schedules()
        version, internal, gauss = state["random"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(state["numpy"]))
        torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
        return True


def train_pipeline(
    config: Config, source: dict[str, Any], output: Path, *, gpu_id: int = -1, resume: bool = False
) -> dict[str, Any]:
    """Train a pipeline and write it to output/model-best.

    config (Config): The settings, with paths.
    source (dict[str, Any]): What encoder.json says of the encoder.
    output (Path): Folder for model-best; a checkpoint stands beside it while training goes on.
    gpu_id (int): GPU to use; -1: the CPU.
    resume (bool): Go on from the checkpoint of an interrupted run.
    RETURNS (dict[str, Any]): The results table, the best epoch, time and peak memory.
    """
    if gpu_id >= 0:
        set_gpu_allocator(config["training"]["gpu_allocator"])
        spacy.require_gpu(gpu_id)
    seed = config["training"]["seed"]
    if seed is not None:
        fix_random_seed(seed)
    # On a GPU this would ask for settings that must stand before the process starts.
    torch.use_deterministic_algorithms(gpu_id < 0)
    run = Run(config, source, output / "checkpoint")
    if resume and not run.restore() and run.checkpoint.exists():
        print("The checkpoint is of another config, encoder or corpus: starting anew.")
    n_posts = len(run.dev)
    print(f"{len(run.examples)} windows, {run.max_steps} steps, {n_posts} posts to validate.")
    for row in run.epochs():
        tqdm.write("  ".join(f"{name} {row[name]}" for name in COLUMNS))
    best = output / "model-best"
    shutil.rmtree(best, ignore_errors=True)
    (run.checkpoint / "best").rename(best)
    shutil.rmtree(run.checkpoint)
    return {
        "rows": run.rows,
        "best_epoch": run.best()["epoch"],
        "encoder": run.nlp.meta["encoder"],
        "trained_on": run.fingerprint,
        "windows": len(run.examples),
        "seconds": round(run.seconds),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _prepare(config: Config) -> tuple[Language, list[Example], list[Any]]:
    """Load the corpora and initialise the pipeline; training examples are windows."""
    nlp = load_model_from_config(config)
    names = [config["training"]["train_corpus"], config["training"]["dev_corpus"]]
    readers = resolve_dot_names(config, names)
    train, dev = ([example.reference for example in reader(nlp)] for reader in readers)
    if not train or not dev:
        raise ValueError("Expected posts in both corpora, found none: see `scripts.convert`.")
    whole = [Example(nlp.make_doc(doc.text), doc) for doc in train]
    nlp.initialize(lambda: whole)
    taught = [doc for doc in train if "teacher" in doc.user_data]
    plain = sum(not doc.has_annotation("ENT_IOB") for doc in taught)
    nlp.meta["teacher"] = {"posts": len(taught), "posts_without_marks": plain}
    transformer = nlp.get_pipe("transformer")
    windows = []
    for doc in train:
        for span in window_spans(transformer.model, doc):
            windows.append(span.as_doc())
            if (teacher := doc.user_data.get("teacher")) is not None:
                windows[-1].user_data["teacher"] = teacher[span.start : span.end]
    examples = [
        Example(Doc(nlp.vocab, [t.text for t in w], [bool(t.whitespace_) for t in w]), w)
        for w in windows
    ]
    return nlp, examples, [doc_to_post(doc) for doc in dev]


def clip_gradients(nlp: Language, most: float) -> float:
    """Scale all gradients so that their joint norm is at most `most` (Pascanu et al. 2013).

    RETURNS (float): The norm before.
    """
    gradients = [*_gradients(nlp)]
    norm = math.sqrt(sum(float((g.ravel() * g.ravel()).sum()) for g in gradients))
    if most and norm > most:
        for gradient in gradients:
            gradient *= most / (norm + 1e-6)
    return norm


def _gradients(nlp: Language) -> Iterator[Any]:
    for _, pipe in nlp.pipeline:
        for node in pipe.model.walk():
            for name in node.grad_names:
                yield node.get_grad(name)
            for shim in node.shims:
                yield from (p.grad for p in shim._model.parameters() if p.grad is not None)


def _parameter_keys(nlp: Language) -> list[tuple[int, str]]:
    """The optimizer's keys in an order that is the same in every process; ids are not."""
    keys = []
    for _, pipe in nlp.pipeline:
        for node in pipe.model.walk():
            keys += [(node.id, name) for name in node.param_names]
            for shim in node.shims:
                keys += [(shim.id, name) for name, _ in shim._model.named_parameters()]
    return keys


def _weights(nlp: Language) -> Iterator[torch.Tensor]:
    """All weights in the same order, as tensors over the pipeline's own memory."""
    for _, pipe in nlp.pipeline:
        for node in pipe.model.walk():
            yield from (xp2torch(node.get_param(name)) for name in node.param_names)
            for shim in node.shims:
                yield from (weight.data for weight in shim._model.parameters())


def _fingerprint(config: Config, source: dict[str, Any]) -> str:
    """SHA-256 of all that decides the weights: settings, encoder and the files of posts."""
    digest = hashlib.sha256(config.to_str().encode() + json.dumps(source["files"]).encode())
    paths = [Path(path) for name, path in config["paths"].items() if name != "encoder" and path]
    for path in paths:
        for file in sorted(path.glob("*")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def print_results(results: dict[str, Any]) -> None:
    """Print the results table of the reference."""
    table = Table(*(name.replace("_", "\n") for name in COLUMNS))
    for row in results["rows"]:
        style = "bold" if row["epoch"] == results["best_epoch"] else None
        table.add_row(*(str(row[name]) for name in COLUMNS), style=style)
    Console().print(table)
    print(f"{results['seconds'] / 60:.1f} minutes, {results['peak_mib']:,} MiB at most.")


app = typer.Typer(add_completion=False)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train_cli)

if __name__ == "__main__":
    app()
