"""project.yml: every command can be run, skipped when nothing changed, and is documented."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import srsly
from conftest import ROOT

PROJECT = srsly.read_yaml(ROOT / "project.yml")
COMMANDS = {command["name"]: command for command in PROJECT["commands"]}
SHIPPED = ["tokenizer", "windows", "transformer", "classifier", "decoder", "ner"]


def resolve(text: str) -> str:
    """Put in the project's variables."""
    return re.sub(r"\$\{vars\.(\w+)}", lambda match: str(PROJECT["vars"][match[1]]), text)


def imported_files(script: Path, known: set[str] | None = None) -> set[str]:
    """The project's files that a script imports, directly or through others."""
    known = set() if known is None else known
    if (name := str(script.relative_to(ROOT))) in known:
        return known
    known.add(name)
    for line in script.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\s*(?:from|import) (scripts(?:\.\w+)*)(?: import ([\w, ]+))?", line)
        if not match:
            continue
        base = ROOT.joinpath(*match[1].split("."))
        names = [f"{part.strip()}.py" for part in (match[2] or "").split(",")]
        initial = [base / "__init__.py"] if base.name != "scripts" else []
        for path in [base.with_suffix(".py"), *initial, *(base / name for name in names)]:
            if path.is_file():
                imported_files(path, known)
    return known


@pytest.mark.parametrize("name", COMMANDS)
def test_what_changes_a_result_is_in_deps(name: str) -> None:
    command = COMMANDS[name]
    assert command["help"].endswith(".")
    deps = {resolve(dep) for dep in command["deps"]}
    needed = set()
    for line in command["script"]:
        for module in re.findall(r"-m scripts\.(\w+)", line):
            needed |= imported_files(ROOT / "scripts" / f"{module}.py")
        needed |= set(re.findall(r"(?:scripts|configs)/[\w/]+\.\w+", line))
    if name.startswith("train"):
        needed |= {f"scripts/skill_ner/{shipped}.py" for shipped in SHIPPED}
    assert {path for path in needed if path not in deps} == set()


def test_templates_licence_and_configs_are_in_deps() -> None:
    assert {"scripts/card.md.jinja", "LICENSE", "configs/meta.json"} <= {
        *COMMANDS["package"]["deps"]
    }
    assert "scripts/page.html.jinja" in COMMANDS["visualize"]["deps"]
    assert "configs" in COMMANDS["train"]["deps"]
    assert "configs/mpnet.cfg" in COMMANDS["train-mpnet"]["deps"]


def test_each_file_is_written_by_one_command() -> None:
    outputs = [resolve(path) for command in PROJECT["commands"] for path in command["outputs"]]
    for i, left in enumerate(outputs):
        for right in outputs[i + 1 :]:
            assert left != right
            assert not left.startswith(f"{right}/"), (left, right)
            assert not right.startswith(f"{left}/"), (left, right)


@pytest.mark.parametrize("workflow", PROJECT["workflows"])
def test_nothing_flows_backwards(workflow: str) -> None:
    made = {asset["dest"] for asset in PROJECT["assets"]}  # fetched, not made
    later = {
        resolve(path)
        for name in PROJECT["workflows"][workflow]
        for path in COMMANDS[name]["outputs"]
    }
    for name in PROJECT["workflows"][workflow]:
        for dep in map(resolve, COMMANDS[name]["deps"]):
            assert dep in made or dep not in later, f"{name} needs {dep} before it is made"
            assert dep in made or (ROOT / dep).exists(), f"{name} needs {dep}, which nobody makes"
        made |= {resolve(path) for path in COMMANDS[name]["outputs"]}


@pytest.mark.parametrize("name", sorted({*re.findall(r"-m scripts\.(\w+)", str(COMMANDS))}))
def test_every_script_has_help(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_readme_has_the_commands_of_project_yml(tmp_path: Path) -> None:
    for name in ("project.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "spacy", "project", "document", ".", "-o", "README.md"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert written == (ROOT / "README.md").read_text(encoding="utf-8")
