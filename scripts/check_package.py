"""A wheel → the same entities as the pipeline that it was made from, in a new environment."""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import typer
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version
from spacy.language import Language
from typer import Argument as Arg
from typer import Option as Opt

from scripts.card import METRICS
from scripts.evaluate import load_pipeline, read_corpus
from scripts.posts import write_json

# The same versions give the same numbers; another build of torch may round in another way.
TOLERANCE = 1e-4
SHOWN = 10
INSIDE = ["README.md", "LICENSE", "LICENSES_SOURCES", *(f"metrics/{name}.json" for name in METRICS)]
# Every use of the network is written down, since libraries catch errors and go on.
PROBE = """
import importlib.util, json, socket, sys
from importlib import metadata
from pathlib import Path

touched = []

def refuse(*args, **kwargs):
    touched.append(repr(args))
    raise OSError("the package must not use the network")

socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.create_connection = refuse

import spacy

name, texts, answer = sys.argv[1], *map(Path, sys.argv[2:])
nlp = spacy.load(name)
docs = [
    [(e.start_char, e.end_char, e.label_, getattr(e._, "confidence", None)) for e in doc.ents]
    for doc in nlp.pipe(json.loads(texts.read_text(encoding="utf-8")))
]
found = {
    "docs": docs,
    "files": [str(file.as_posix()) for file in metadata.files(name)],
    "requires": metadata.requires(name),
    "version": nlp.meta["version"],
    "touched": touched,
    "has_scripts": importlib.util.find_spec("scripts") is not None,
}
answer.write_text(json.dumps(found), encoding="utf-8")
"""
Entities = list[tuple[int, int, str, float | None]]


def check_package_cli(
    wheel: Path = Arg(..., help="The wheel"),
    pipeline: Path = Arg(Path("training/model-best"), help="Pipeline that it was made from"),
    corpus: Path = Opt(Path("corpus/test.spacy"), help="Posts to compare on"),
    limit: int = Opt(0, help="Compare on so many posts only; 0: on all"),
    output: Path | None = Opt(None, help="JSON file for what was compared"),
) -> None:
    """Install a wheel in a new environment and compare its entities with the pipeline's."""
    try:
        nlp = load_pipeline(str(pipeline))
        texts = [post.text for post in read_corpus(corpus, nlp)][: limit or None]
        counts = check_package(wheel, nlp, texts)
        if output is not None:
            write_json(output, counts)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(
        f"{wheel}: {counts['mib']:.1f} MiB, installed into a new environment, with "
        f"{', '.join(counts['requires'])}.\n"
        f"{counts['entities']} entities of {counts['posts']} posts equal those of {pipeline}; "
        f"confidences differ by {counts['difference']:.1g} at most ({TOLERANCE:g} is allowed).\n"
        f"No network was used. Inside: {', '.join(INSIDE)}."
    )


def check_package(
    wheel: Path,
    nlp: Language,
    texts: list[str],
    *,
    install: Callable[[Path, Path], Path] | None = None,
) -> dict[str, Any]:
    """Install a wheel and compare what it finds with what a pipeline finds.

    wheel (Path): The wheel.
    nlp (Language): The pipeline that it was made from.
    texts (list[str]): Posts to compare on.
    install (Callable[[Path, Path], Path] | None): Installs a wheel into an empty folder and
        returns the Python to run; None: `install_wheel`.
    RETURNS (dict[str, Any]): posts, entities, the largest difference of confidence, mib, and
        what the package requires.
    RAISES (ValueError): The package differs, uses the network, or lacks a file.
    """
    name, version = read_name(wheel)
    expected = find_entities(nlp, texts)
    if not any(expected):
        raise ValueError(f"No entity in {len(texts)} posts: nothing to compare, give other posts.")
    with tempfile.TemporaryDirectory(prefix="check-package-") as work:
        python = (install or install_wheel)(wheel, Path(work, "venv"))
        found = run_probe(python, name, texts, Path(work))
    problems = check_contents(found, name, version)
    problems += compare(expected, found["docs"])
    if problems:
        more = [f"... and {len(problems) - SHOWN} more."] if len(problems) > SHOWN else []
        raise ValueError("\n".join([f"{wheel} is unfit:", *problems[:SHOWN], *more]))
    pairs = zip(chain.from_iterable(expected), chain.from_iterable(found["docs"]), strict=True)
    return {
        "posts": len(texts),
        "entities": sum(map(len, expected)),
        "difference": max(abs(ours[3] - theirs[3]) for ours, theirs in pairs),
        "mib": wheel.stat().st_size / 2**20,
        "requires": sorted(found["requires"]),
    }


def read_name(wheel: Path) -> tuple[str, Version]:
    """Read a package's name and version from a wheel's file name (PEP 427).

    RETURNS (tuple[str, Version]): The name as it is imported, and the version.
    RAISES (ValueError): There is no such file, or installers would refuse its name.
    """
    if not wheel.is_file():
        raise ValueError(f"{wheel}: not found, make it with `spacy project run package`.")
    parsed, version, _, _ = parse_wheel_filename(wheel.name)
    return parsed.replace("-", "_"), version


def find_entities(nlp: Language, texts: list[str]) -> list[Entities]:
    """RETURNS (list[Entities]): Start, end, label and confidence of each post's entities."""
    return [
        [(ent.start_char, ent.end_char, ent.label_, ent._.confidence) for ent in doc.ents]
        for doc in nlp.pipe(texts)
    ]


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Install a wheel with its own requirements into a new virtual environment.

    wheel (Path): The wheel.
    folder (Path): Folder of the environment.
    RETURNS (Path): The environment's Python.
    RAISES (ValueError): pip failed.
    """
    venv.create(folder, with_pip=True)
    python = get_python(folder)
    constraints = folder / "constraints.txt"
    constraints.write_text(list_versions(skip=read_name(wheel)[0]), encoding="utf-8")
    # The pip that Python brings may be years old, and only a current one refuses odd names.
    for arguments in (["--upgrade", "pip"], ["-c", str(constraints), str(wheel.resolve())]):
        # Isolated (-I): neither PYTHONPATH nor the folder that this runs in can lend a package.
        command = [str(python), "-I", "-m", "pip", "install", "--quiet", *arguments]
        if subprocess.run(command, check=False, cwd=folder).returncode != 0:
            raise ValueError(
                f"pip could not install {arguments[-1]}, see above. If torch came from an index "
                "of its own, name that in PIP_EXTRA_INDEX_URL."
            )
    return python


def list_versions(skip: str) -> str:
    """List the versions of this environment as constraints for pip.

    With equal versions, and torch above all, a difference is the package's own fault. What the
    wheel does not require is not installed by them. A local part ("+cpu") is left out: pip
    prefers a build that has one where it can find it, and takes another rather than none.

    skip (str): Package to leave out: the one that is checked.
    RETURNS (str): One constraint a line.
    """
    versions = {dist.name: dist.version for dist in metadata.distributions()}
    names = [n for n in sorted(versions) if canonicalize_name(n) != canonicalize_name(skip)]
    return "".join(f"{name}=={Version(versions[name]).public}\n" for name in names if name != "pip")


def get_python(folder: Path) -> Path:
    """RETURNS (Path): The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run_probe(python: Path, name: str, texts: list[str], work: Path) -> dict[str, Any]:
    """Run an installed package over posts in a process of its own, outside of the repository.

    python (Path): The Python to run.
    name (str): The package.
    texts (list[str]): The posts.
    work (Path): An empty folder to run in.
    RETURNS (dict[str, Any]): docs, files, requires, version, touched (uses of the network) and
        has_scripts (whether repository code could be imported).
    RAISES (ValueError): The package could not be loaded or run.
    """
    source, answer = work / "texts.json", work / "answer.json"
    source.write_text(json.dumps(texts), encoding="utf-8")
    # Neither an offline switch nor a cache may hide that something is looked for on the hub.
    hidden = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    command = [str(python), "-I", "-c", PROBE, name, str(source), str(answer)]
    result = subprocess.run(
        command,
        check=False,
        cwd=work,
        env={**env, "HF_HOME": str(work / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode != 0:
        raise ValueError(f"{name} was installed but does not run:\n{result.stderr.strip()}")
    return json.loads(answer.read_text(encoding="utf-8"))


def check_contents(found: dict[str, Any], name: str, version: Version) -> list[str]:
    """Check all of a probe's answer but the entities.

    RETURNS (list[str]): One line for each problem.
    """
    problems = [f"It used the network: {call}" for call in found["touched"]]
    if found["has_scripts"]:
        problems.append("`scripts` can be imported, so the package was not alone.")
    if Version(found["version"]) != version:
        problems.append(f"meta.json has version {found['version']}, the file name {version}.")
    folder = f"{name}/{name}-{found['version']}"
    missing = [file for file in INSIDE if f"{folder}/{file}" not in found["files"]]
    return problems + [f"{folder}/{file} is missing: run `scripts.card` first." for file in missing]


def compare(expected: list[Entities], found: list[Entities]) -> list[str]:
    """Compare the entities of each post, and their confidences within TOLERANCE.

    RETURNS (list[str]): One line for each difference.
    """
    problems = []
    for number, docs in enumerate(zip(expected, found, strict=True), start=1):
        ours, theirs = ({tuple(ent[:3]): ent[3] for ent in doc} for doc in docs)
        for ent in sorted({*ours, *theirs}):
            what = f"post {number}, {ent[0]}-{ent[1]} {ent[2]}"
            if ent not in theirs:
                problems.append(f"{what}: not found by the package.")
            elif ent not in ours:
                problems.append(f"{what}: found by the package alone.")
            elif None in (ours[ent], theirs[ent]) or not abs(ours[ent] - theirs[ent]) <= TOLERANCE:
                problems.append(f"{what}: confidence {ours[ent]}, in the package {theirs[ent]}.")
    return problems


if __name__ == "__main__":
    typer.run(check_package_cli)
