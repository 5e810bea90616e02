"""A trained pipeline and its metrics → a copy with model card and licences, to be packaged."""

import json
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import typer
from packaging.version import Version
from typer import Argument as Arg
from typer import Option as Opt

from scripts.posts import write_json

# Figures that the card needs, with the step that makes them. Those on real posts are optional.
METRICS = {"test": "evaluate", "train": "train", "corpus": "convert"}
OPTIONAL = "real_minilm"
PERFORMANCE = ("ents_p", "ents_r", "ents_f", "ents_per_type")
TEMPLATE = Path(__file__).with_name("card.md.jinja")
# From assets/guidelines.md.
MEANINGS = {
    "TECHNOLOGY": ("a tool, language, platform or format by name", "Python, Excel, AWS, REST"),
    "TECHNICAL": ("a technical field, method or task", "machine learning, ETL, dashboards"),
    "BUSINESS": ("a business, domain or management skill", "project management, Agile, GDPR"),
    "SOFT": ("a personal or interpersonal skill", "communication, leadership, teamwork"),
}
SOURCES = """\
{package} {version} is made from the following works.

ENCODER: {name}
{encoder}

TRAINING POSTS
Annotated job posts by the en_skill_ner contributors, written and annotated by a language
model.
Licensed under CC BY 4.0, https://creativecommons.org/licenses/by/4.0/
The package holds weights and figures derived from them, not the posts.
"""
APACHE_NOTICE = """\
Published at https://huggingface.co/{origin}
Revision {revision}
Licensed under the Apache License, Version 2.0, whose text stands at the end of this file.
Changed: trained further on the posts below, and stored in another format."""
UNKNOWN_NOTICE = """\
It came from a folder, and its origin and licence were not recorded.
Find out its licence before you pass this package on."""


def card_cli(
    pipeline: Path = Arg(..., help="Trained pipeline; it stays as it is"),
    output: Path = Arg(..., help="Folder for the copy, replaced as a whole"),
    metrics: Path = Opt(Path("metrics"), help="Folder with the figures as JSON"),
    version: str = Opt(..., help="Version of the package"),
    licence: Path = Opt(Path("LICENSE"), help="Licence of the project"),
) -> None:
    """Copy a trained pipeline and add its model card, licences and metrics."""
    try:
        if str(Version(version)) != version:
            raise ValueError(f"--version {version}: write it as {Version(version)}.")
        make_copy(pipeline, output, read_metrics(metrics), version, licence)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{output}: pipeline, README.md, LICENSE, LICENSES_SOURCES, metrics")


def make_copy(
    pipeline: Path, output: Path, metrics: dict[str, dict[str, Any]], version: str, licence: Path
) -> None:
    """Write a copy of a pipeline with all that its package needs.

    pipeline (Path): Folder of the trained pipeline.
    output (Path): Folder of the copy.
    metrics (dict[str, dict[str, Any]]): Figures by name, as `read_metrics` returns them.
    version (str): Version of the package.
    licence (Path): Licence of the project.
    RAISES (ValueError): A path is unfit, or the figures are of another pipeline.
    """
    _check_paths(pipeline, output)
    meta = json.loads((pipeline / "meta.json").read_text(encoding="utf-8"))
    meta |= {"version": version, "name": "skill_ner"}
    if metrics.get(OPTIONAL, {}).get("trained_on") != meta["trained_on"]:
        # Figures of the published pipeline say nothing of one that a user has trained.
        metrics = {name: content for name, content in metrics.items() if name != OPTIONAL}
    card, sources = render_card(meta, metrics), render_sources(meta)
    meta["performance"] = {key: metrics["test"][key] for key in PERFORMANCE}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        new = Path(work, "new")
        shutil.copytree(pipeline, new)
        (new / "README.md").write_text(card, encoding="utf-8")
        (new / "LICENSES_SOURCES").write_text(sources, encoding="utf-8")
        shutil.copyfile(licence, new / "LICENSE")
        write_json(new / "meta.json", meta)
        for name, content in metrics.items():
            write_json(new / "metrics" / f"{name}.json", content)
        if output.exists():
            output.rename(Path(work, "old"))
        new.rename(output)


def _check_paths(pipeline: Path, output: Path) -> None:
    if not (pipeline / "meta.json").is_file():
        raise ValueError(f"{pipeline}: no pipeline, train one with `spacy project run train`.")
    source, target = pipeline.resolve(), output.resolve()
    if target == source or target in source.parents or source in target.parents:
        raise ValueError(f"{output} and {pipeline} hold one another: name another output folder.")
    if output.exists() and any(output.iterdir()) and not (output / "meta.json").is_file():
        raise ValueError(f"{output} is no pipeline and would be lost: name another output folder.")


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the figures that the card quotes.

    RETURNS (dict[str, dict[str, Any]]): "test", "train", "corpus", and "real_minilm" if there.
    RAISES (ValueError): A file is missing or no JSON.
    """
    metrics = {}
    for name in [*METRICS, OPTIONAL]:
        path = folder / f"{name}.json"
        if name == OPTIONAL and not path.exists():
            continue
        try:
            metrics[name] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            step = METRICS[name]
            raise ValueError(f"{path}: missing, make it by `spacy project run {step}`.") from None
        except ValueError as error:
            raise ValueError(f"{path}: no JSON ({error}), make it anew.") from None
    return metrics


def render_card(meta: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> str:
    """Write the model card.

    meta (dict[str, Any]): The pipeline's meta, with version and encoder.
    metrics (dict[str, dict[str, Any]]): Figures by name, as `read_metrics` returns them.
    RETURNS (str): Markdown.
    RAISES (ValueError): A figure is missing, or comes from another training run.
    """
    encoder = _encoder(meta)
    for name in ("test", "train", OPTIONAL):
        if name in metrics and metrics[name].get("trained_on") != meta["trained_on"]:
            raise ValueError(f"{name}.json is of another training run: make it anew.")
    # A figure that is missing must not become a blank.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["share"] = lambda value: f"{float(value):.4f}"
    try:
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            **{OPTIONAL: None, **metrics},
            package=_package(meta),
            version=meta["version"],
            labels=meta["labels"]["ner"],
            meanings=MEANINGS,
            encoder=encoder,
            teacher=meta.get("teacher"),
            origin=encoder["origin"],
        )
    except (jinja2.UndefinedError, TypeError) as error:
        raise ValueError(f"The metrics lack a figure ({error}): make them anew.") from None


def render_sources(meta: dict[str, Any]) -> str:
    """RETURNS (str): What the package is made from and by which licences; the content of
    LICENSES_SOURCES."""
    encoder = _encoder(meta)
    apache = encoder["licence"] == "Apache-2.0"
    notice = APACHE_NOTICE.format(**encoder) if apache else UNKNOWN_NOTICE
    text = SOURCES.format(
        package=_package(meta), version=meta["version"], name=encoder["name"], encoder=notice
    )
    return f"{text}\n{_read_apache()}" if apache else text


def _package(meta: dict[str, Any]) -> str:
    return f"{meta['lang']}_{meta['name']}"


def _encoder(meta: dict[str, Any]) -> dict[str, Any]:
    if "encoder" not in meta:
        raise ValueError("meta.json names no encoder: train the pipeline with `scripts.train`.")
    return {"origin": None, "revision": None, "licence": None, **meta["encoder"]}


def _read_apache() -> str:
    """The licence asks for a copy of itself (section 4a): the encoder's library brings one."""
    for file in metadata.files("huggingface_hub") or []:
        if file.name == "LICENSE":
            return file.locate().read_text(encoding="utf-8")
    raise ValueError("huggingface_hub lacks its LICENSE: install it anew.")


if __name__ == "__main__":
    typer.run(card_cli)
