"""How an encoder-decoder's answers begin and end: keys of config.json, over which generation_config.json goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Decoding
from .values import Key, Unfit, checked, token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DECODING_KEYS", "decoding_of", "with_generation"]


def _words(value: object) -> tuple[tuple[int, ...], ...]:
    """Pass lists of ids, or null (none)."""
    words = [] if value is None else value
    if not isinstance(words, list) or not all(
        isinstance(word, list) and word and all(type(i) is int for i in word) for word in words
    ):
        msg = "a list of lists of token ids, or null"
        raise Unfit(msg)
    return tuple(tuple(word) for word in words)


DECODING_KEYS = {
    "decoder_start_token_id": Key((), token_ids),
    "forced_bos_token_id": Key((), token_ids),
    "forced_eos_token_id": Key((), token_ids),
    "bad_words_ids": Key((), _words),
}


def decoding_of(v: Mapping[str, Any], n_vocab: int, where: str) -> Decoding:
    """From a family's checked keys. Errors: `ConfigError` where nothing says what the decoder reads first."""
    start = [*v["decoder_start_token_id"], *v["bos_token_id"]][:1]
    if not start or not 0 <= start[0] < n_vocab:
        msg = f"{where}: decoder_start_token_id is {start[0] if start else None}; expected an id below {n_vocab}"
        raise ConfigError(msg)
    return _decoding(start[0], v, n_vocab)


def _decoding(start: int, v: Mapping[str, Any], n_vocab: int) -> Decoding:
    """Ids outside of the vocabulary are dropped: they cannot come out."""
    bos, eos = (tuple(i for i in v[f"forced_{end}_token_id"] if 0 <= i < n_vocab) for end in ("bos", "eos"))
    never = tuple(word for word in v["bad_words_ids"] if all(0 <= i < n_vocab for i in word))
    return Decoding(start, bos[0] if bos else None, eos, never)


def with_generation(decoding: Decoding, n_vocab: int, where: str, generation: object) -> Decoding:
    """With what generation_config.json says: where there is one, it alone says what is forced. `ConfigError`."""
    if not isinstance(generation, dict):
        return decoding
    place = f"generation_config.json next to {where}"
    v: dict[str, Any] = {
        name: checked(name, generation[name], key.check, place) if name in generation else key.default
        for name, key in DECODING_KEYS.items()
    }
    start = [i for i in v["decoder_start_token_id"] if 0 <= i < n_vocab]
    return _decoding(start[0] if start else decoding.start, v, n_vocab)
