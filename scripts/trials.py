"""A list of recipes and shares of the posts → what each reaches on the dev posts, by seed."""

import json
import random
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import spacy
import typer
from rich.console import Console
from rich.table import Table
from spacy.tokens import Doc, DocBin
from spacy.util import load_config
from typer import Argument as Arg
from typer import Option as Opt

from scripts.encoder import read_encoder
from scripts.evaluate import evaluate, load_pipeline, read_corpus, read_gold
from scripts.posts import Post, write_bytes
from scripts.train import check_training, train_pipeline

KEYS = {"name", "seeds", "share", "rounds", "encoder", "teacher", "settings"}
# Which posts a share takes; not a trial's seed, so that all seeds learn from the same posts.
SHARE_SEED = 0


def trials_cli(
    trials: Path = Arg(Path("scripts/trials.toml"), help="The trials, a [[trial]] each"),
    train: Path = Opt(Path("corpus/train.spacy"), help="Training posts"),
    dev: Path = Opt(Path("corpus/dev.spacy"), help="Posts that choose epochs and recipes"),
    real: Path | None = Opt(None, help="Annotated posts (JSONL) to score as well, never to choose"),
    work: Path = Opt(Path("training/trials"), help="Folder for what a trial leaves behind"),
    output: Path = Opt(Path("metrics/trials.jsonl"), help="A line for each run; those are kept"),
    gpu_id: int = Opt(-1, help="GPU to use; -1: the CPU"),
) -> None:
    """Train a pipeline for each trial and seed that has no line yet, and print the table."""
    try:
        planned = read_trials(trials)
        gold = read_gold(real) if real else []
        done = read_rows(output)
        for trial in planned:
            for seed in trial["seeds"]:
                if any((row["trial"], row["seed"]) == (trial["name"], seed) for row in done):
                    continue
                print(f"{trial['name']}, seed {seed}")
                done.append(run_trial(trial, seed, train, dev, gold, work, gpu_id))
                lines = "".join(json.dumps(row) + "\n" for row in done)
                write_bytes(output, lines.encode())
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. The runs in {output} are kept; the same command goes on.")
    table = Table(*COLUMNS)
    for cells in summarise(done):
        table.add_row(*cells)
    Console().print(table)


def read_trials(path: Path) -> list[dict[str, Any]]:
    """Read the trials, each with what the file's top level says of all.

    RAISES (ValueError): The file is no TOML, or a trial has a key that is not used here.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: invalid TOML ({error}).") from None
    common = {key: value for key, value in content.items() if key != "trial"}
    trials = []
    for number, trial in enumerate(content.get("trial", []), start=1):
        whole = {"seeds": [42], "settings": {}} | common | trial
        unused = sorted(set(whole) - KEYS)
        if unused or "name" not in trial or "encoder" not in whole:
            raise ValueError(
                f"{path}: trial {number} needs a name and an encoder's folder, and may have "
                f"{sorted(KEYS)}; found besides: {unused}."
            )
        trials.append(whole)
    if len({trial["name"] for trial in trials}) < len(trials):
        raise ValueError(f"{path}: two trials have one name, rename one.")
    return trials


def read_rows(path: Path) -> list[dict[str, Any]]:
    """RETURNS (list[dict[str, Any]]): The runs so far, none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_trial(
    trial: dict[str, Any],
    seed: int,
    train: Path,
    dev: Path,
    real: list[Post],
    work: Path,
    gpu_id: int = -1,
) -> dict[str, Any]:
    """Train one pipeline and score it.

    trial (dict[str, Any]): The encoder's folder; `settings` that override those of the config that
        the encoder names; the `share` of the training posts or the `rounds` to learn from; the
        file of a `teacher`, or none: it has learned from all the posts.
    real (list[Post]): Other posts to score, or none.
    RETURNS (dict[str, Any]): Strict F1, also of surfaces that were not learned, dev and real.
    """
    encoder = Path(trial["encoder"])
    source = read_encoder(encoder)
    docs = [*DocBin().from_disk(train).get_docs(spacy.blank("en").vocab)]
    chosen = choose_posts(docs, trial.get("share", 1.0), trial.get("rounds"))
    part = work / "train.spacy"
    write_bytes(part, DocBin(docs=chosen, store_user_data=True).to_bytes())
    path = Path("configs") / source["config"]
    paths = {"train": str(part), "dev": str(dev), "encoder": str(encoder)}
    paths["teacher"] = trial.get("teacher")
    overrides = {f"paths.{name}": path for name, path in paths.items()}
    overrides |= {"system.seed": seed, **trial["settings"]}
    config = load_config(path, overrides, interpolate=True)
    check_training(config, path)
    results = train_pipeline(config, source, work, gpu_id=gpu_id)
    nlp = load_pipeline(str(work / "model-best"))
    row = {"trial": trial["name"], "seed": seed, "posts": len(chosen), "epochs": results["rows"]}
    learned = read_corpus(part, nlp)
    for name, gold in (("dev", read_corpus(dev, nlp)), ("real", real)):
        if gold:
            metrics = evaluate(nlp, gold, learned)
            row[name] = {key: metrics[key] for key in ("ents_f", "ents_f_unseen")}
    shutil.rmtree(work)
    return row | {key: results[key] for key in ("seconds", "trained_on")}


def choose_posts(docs: list[Doc], share: float, rounds: list[str] | None) -> list[Doc]:
    """RETURNS (list[Doc]): The posts of some rounds, or all; of these a share, in their order.

    RAISES (ValueError): None is left.
    """
    if rounds is not None:
        docs = [doc for doc in docs if doc.user_data["meta"].get("round") in rounds]
    order = list(range(len(docs)))
    random.Random(SHARE_SEED).shuffle(order)
    chosen = [docs[i] for i in sorted(order[: round(share * len(docs))])]
    if not chosen:
        raise ValueError(f"No post is left of share {share}, rounds {rounds}: take more.")
    return chosen


COLUMNS = ["trial", "posts", "runs", "dev F1", "unseen", "real F1", "unseen", "minutes"]


def summarise(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """YIELDS (list[str]): The cells of one trial: means over its seeds, F1 with its range."""
    for name in dict.fromkeys(row["trial"] for row in rows):
        runs = [row for row in rows if row["trial"] == name]
        cells = [name, str(runs[0]["posts"]), str(len(runs))]
        for part in ("dev", "real"):
            for key in ("ents_f", "ents_f_unseen"):
                values = [run[part][key] for run in runs if part in run]
                cells.append(_cell(values, spread=key == "ents_f"))
        yield [*cells, f"{mean(run['seconds'] for run in runs) / 60:.1f}"]


def _cell(values: list[float], *, spread: bool) -> str:
    if not values:
        return "-"
    between = f" ({min(values):.3f} to {max(values):.3f})" if spread and len(values) > 1 else ""
    return f"{mean(values):.3f}{between}"


if __name__ == "__main__":
    typer.run(trials_cli)
