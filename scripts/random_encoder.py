"""An encoder of bert-base-cased's exact shape with random weights, where only the shape matters."""

import string
import sys
import tempfile
from pathlib import Path

import torch
import typer
from transformers import BertConfig, BertModel, BertTokenizerFast
from typer import Argument as Arg
from typer import Option as Opt

from scripts.encoder import prepare_encoder

# https://huggingface.co/google-bert/bert-base-cased, config.json; BertConfig has the rest.
VOCABULARY = 28_996
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def random_encoder_cli(
    output: Path = Arg(..., help="Folder for the encoder, replaced as a whole"),
    seed: int = Opt(42, help="Seed of the weights"),
) -> None:
    """Write an encoder that costs what bert-base-cased costs and knows nothing."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "random-bert-base-cased")
        make_encoder(folder, seed)
        try:
            prepare_encoder(str(folder), output)
        except (ValueError, OSError) as error:
            sys.exit(str(error))
    print(f"{output}: random weights, no figure of a pipeline on them means anything.")


def make_encoder(folder: Path, seed: int) -> None:
    """Write random weights and a vocabulary of letters in the hub's layout.

    folder (Path): Folder to make.
    seed (int): Seed of the weights.
    """
    folder.mkdir()
    signs = [sign for sign in string.printable if not sign.isspace()]
    known = [*SPECIAL, *signs, *(f"##{sign}" for sign in signs)]
    filler = [f"[unused{i}]" for i in range(VOCABULARY - len(known))]
    (folder / "vocab.txt").write_text("\n".join([*known, *filler]), encoding="utf-8")
    tokenizer = BertTokenizerFast(
        vocab_file=str(folder / "vocab.txt"), do_lower_case=False, model_max_length=512
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    BertModel(BertConfig(vocab_size=VOCABULARY)).save_pretrained(folder)


if __name__ == "__main__":
    typer.run(random_encoder_cli)
