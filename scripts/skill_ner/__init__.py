"""Registers the project's components: one `--code` for training, evaluation and tests."""

from scripts.skill_ner import classifier, decoder, ner, tokenizer, transformer, windows

__all__ = ["classifier", "decoder", "ner", "tokenizer", "transformer", "windows"]
