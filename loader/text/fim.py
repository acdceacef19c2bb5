"""Fill in the middle: a prompt of what stands before and after, by the tokens that a model was trained with for it.

Bavarian et al. 2022 (arXiv:2207.14255): prefix, suffix, then the middle, each after a token of its own. StarCoder2
(arXiv:2402.19173, section 5.1), Qwen2.5 Coder (arXiv:2409.12186 and its example) and Code Llama (arXiv:2308.12950) were
trained with this order, besides others. Control tokens that stand in prefix or suffix are text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import InputError
from .control import ControlTokens
from .token_bytes import token_bytes
from .trie import one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .tokenizer import Tokenizer

__all__ = ["Infill", "infill_of", "infills"]

_BAR = "\N{FULLWIDTH VERTICAL LINE}"
#: Tokens before the prefix, the suffix and the middle, and what ends it besides these, as tokenizers spell them.
_FORMS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<|endoftext|>", "<file_sep>", "<fim_pad>")),  # StarCoder 1, 2
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<|endoftext|>", "<fim-pad>")),  # SantaCoder
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",  # Qwen2.5 Coder, CodeGemma
     ("<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>")),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", ("\u2581<EOT>",)),  # Code Llama
    (f"<{_BAR}fim\u2581begin{_BAR}>", f"<{_BAR}fim\u2581hole{_BAR}>", f"<{_BAR}fim\u2581end{_BAR}>",  # DeepSeek Coder
     (f"<{_BAR}end\u2581of\u2581sentence{_BAR}>",)),
)  # fmt: skip


@dataclass(frozen=True)
class Infill:
    """Ids of a prompt that asks for a middle, and those that end it besides the model's own."""

    ids: list[int]
    ends: tuple[int, ...]


def infill_of(tokenizer: Tokenizer, prefix: str, suffix: str) -> Infill:
    """The prompt. Errors: `InputError` for a tokenizer without such tokens, and as `ControlTokens.marked`.

    `TokenizerError` for a text.
    """
    tokens = _tokens(tokenizer)
    if tokens is None:
        msg = (
            "infill: this model's tokenizer has no tokens to fill in the middle with; use a code model that was "
            "trained for it (StarCoder2, Qwen2.5 Coder, Code Llama 7B and 13B, …), or generate"
        )
        raise InputError(msg)
    before, between, last, ends = tokens
    frame = tokenizer.encode("")
    bos = frame[:1] if frame[:1] == [tokenizer.bos_id] else []
    control = ControlTokens(tokenizer)
    ids = [
        *bos,
        before,
        *control.encode(control.marked(prefix)),
        between,
        *control.encode(control.marked(suffix), lambda text: _inside(tokenizer, text)),
        last,
    ]
    return Infill(ids, (before, between, last, *ends))


def infills(tokenizer: Tokenizer) -> bool:
    """Whether it has tokens to fill in the middle with."""
    return _tokens(tokenizer) is not None


def _tokens(tokenizer: Tokenizer) -> tuple[int, int, int, tuple[int, ...]] | None:
    for *names, ends in _FORMS:
        ids = [tokenizer.token_to_id(str(name)) for name in names]
        first, second, third = ids
        if first is not None and second is not None and third is not None:
            return first, second, third, tuple(_known(tokenizer, ends))
    return None


def _known(tokenizer: Tokenizer, names: tuple[str, ...] | str) -> Iterator[int]:
    for name in names:
        number = tokenizer.token_to_id(name)
        if number is not None:
            yield number


def _inside(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that goes on another: SentencePiece puts a space before one that begins."""
    plain = tokenizer.encode(text, add_special_tokens=False)
    if not text or "ByteLevel" in tokenizer.decoder_kinds:
        return plain
    ids = one(text, tokenizer, token_bytes(tokenizer, tokenizer.n_vocab), first=False)
    return plain if ids is None else ids
