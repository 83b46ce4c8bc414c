"""Cuts texts into the word pieces of a vocabulary, as BERT does, and reads files of lines beside a manifest."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stratoscope.errors import SpecError
from stratoscope.spec.steps import Tokenize

#: Largest vocabulary or label file, in bytes.
MAX_LIST_BYTES = 16 << 20


def read_lines(name: str, folder: Path | None) -> list[str]:
    """Lines of a file beside the manifest; raises SpecError where it is missing, too large, or outside the folder."""
    base = (folder or Path()).resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise SpecError(f"{name} lies outside the manifest's folder {base}")
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise SpecError(f"{path} is larger than {MAX_LIST_BYTES} bytes")
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {error}", hint="name a text file beside the manifest") from error


def tokenize(step: Tokenize, text: np.ndarray | bytes | str, folder: Path | None = None) -> np.ndarray:
    """int64 [max_length]: ids, mask or segments of one text."""
    if not isinstance(text, str):
        raise SpecError(f"step 'tokenize' needs a text and has {type(text).__name__}")
    vocabulary = {token: index for index, token in enumerate(read_lines(step.vocabulary, folder))}
    special = (step.unknown_token, step.start_token, step.end_token, step.padding_token)
    missing = [token for token in special if token not in vocabulary]
    if missing:
        raise SpecError(f"{step.vocabulary} lacks the special tokens {', '.join(missing)}")
    pieces = [
        p for word in split_words(text, step.lowercase) for p in word_pieces(word, vocabulary, step.unknown_token)
    ]
    tokens = [step.start_token, *pieces[: step.max_length - 2], step.end_token]
    result = np.zeros(step.max_length, np.int64)
    if step.output == "ids":
        result[:] = vocabulary[step.padding_token]
        result[: len(tokens)] = [vocabulary[token] for token in tokens]
    elif step.output == "mask":
        result[: len(tokens)] = 1
    return result


def split_words(text: str, lowercase: bool) -> list[str]:
    """Words and single punctuation marks, as BERT's basic tokenizer cuts them: CJK characters stand alone."""
    if lowercase:
        decomposed = unicodedata.normalize("NFD", text.lower())
        text = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
    spaced: list[str] = []
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif char in "\0\ufffd" or category in {"Cc", "Cf", "Co", "Cs"}:
            continue
        elif (
            category.startswith("P") or (char.isascii() and char.isprintable() and not char.isalnum()) or _is_cjk(char)
        ):
            spaced.append(f" {char} ")
        else:
            spaced.append(char)
    return "".join(spaced).split()


def _is_cjk(char: str) -> bool:
    """Unified ideographs and their extensions and compatibility forms, as BERT counts them."""
    code = ord(char)
    ranges = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF))
    return any(low <= code <= high for low, high in (*ranges, (0x2F800, 0x2FA1F)))


def word_pieces(word: str, vocabulary: Mapping[str, int], unknown: str) -> list[str]:
    """The longest known pieces from the left, later ones marked ##; a word with an unknown rest is unknown."""
    if len(word) > 100:  # BERT's limit
        return [unknown]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                pieces.append(piece)
                start = end
                break
        else:
            return [unknown]
    return pieces
