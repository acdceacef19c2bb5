"""How much longer a tokenizer.json can make a text: bounded by its rules, before the file is used at all.

Normalizers, pre-tokenizers, decoders and post-processors are applied one after the other, so their factors multiply:
nine that replace a character by ten make a thousand million of one, and the `tokenizers` library aborts the process
where memory ends. What a rule can do at most is known from the file; those of published files stay below 2000.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any

from ...errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["check_growth"]

MOST = 4096
#: Characters that one becomes at most, by Unicode's own tables (UAX 15, section 9; SpecialCasing.txt) or UTF-8's.
_FIXED = {
    "NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "BertNormalizer": 3 * 4 * 3, "ByteLevel": 5,
    "Metaspace": 2, "WordPiece": 2,
}  # fmt: skip
#: What a regular expression that always matches a character has none of.
_MAY_BE_EMPTY = ("*", "?", "|", "{0", "{,", "^", "$", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G", "\\K")
#: Where steps that are made of others keep them.
_STEPS = ("normalizers", "pretokenizers", "decoders", "processors")


def check_growth(file: Mapping[str, Any], where: str) -> None:
    """Refuse a parsed tokenizer.json whose rules can make a text too long: `TokenizerError`."""
    model = file.get("model")
    affixes = sum(_length(model.get(key)) for key in ("continuing_subword_prefix", "end_of_word_suffix")) if (
        isinstance(model, dict)
    ) else 0  # fmt: skip
    texts = _growth(file.get("normalizer")) * _growth(file.get("pre_tokenizer")) * (1 + affixes)
    for what, times in (
        ("normalizer and pre_tokenizer", texts),
        ("post_processor", _growth(file.get("post_processor"))),
        ("decoder", _growth(file.get("decoder"))),
    ):
        if times > MOST:
            msg = (
                f"{where}: its {what} can make a text {times:.0f} times as long, expected at most {MOST} times; "
                "the file is damaged or was made to do harm"
            )
            raise TokenizerError(msg)


def _growth(step: object) -> float:
    """Characters (of a template: copies) that one becomes at most."""
    if not isinstance(step, dict):
        return 1
    kind = str(step.get("type"))
    times = _BY_RULE[kind](step) if kind in _BY_RULE else float(_FIXED.get(kind, 1))
    for key in _STEPS:
        for inner in step[key] if isinstance(step.get(key), list) else ():
            times = min(times * _growth(inner), 1e300)
    return times


def _replace(step: dict[str, Any]) -> float:
    content, pattern = _length(step.get("content")), step.get("pattern")
    text, regex = (pattern.get(key) if isinstance(pattern, dict) else None for key in ("String", "Regex"))
    if isinstance(text, str) and text:
        return max(1, content / len(text))
    empty = not isinstance(regex, str) or any(sign in regex for sign in _MAY_BE_EMPTY)
    return max(1, content) + (content if empty else 0)


def _precompiled(step: dict[str, Any]) -> float:
    """SentencePiece's table: the size of a trie in 4 bytes, the trie, and the replacements, each ended by a NUL."""
    try:
        table = binascii.a2b_base64(step.get("precompiled_charsmap") or "", strict_mode=True)
    except (TypeError, ValueError, binascii.Error):
        return 1
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(1, *map(len, texts.split(b"\0")))


def _template(step: dict[str, Any]) -> float:
    single = step.get("single")
    pieces = single if isinstance(single, list) else ()
    return max(1, sum(isinstance(piece, dict) and "Sequence" in piece for piece in pieces))


def _length(value: object) -> int:
    return len(value) if isinstance(value, str) else 0


_BY_RULE: dict[str, Callable[[dict[str, Any]], float]] = {
    "Replace": _replace,
    "Precompiled": _precompiled,
    "TemplateProcessing": _template,
    "Prepend": lambda step: 1 + _length(step.get("prepend")),
    "BPEDecoder": lambda step: 1 if step.get("suffix") else 2,
    "CTC": lambda step: 1 if step.get("word_delimiter_token") else 2,
}
