"""Text to ids and back: tokenizer.json through `tokenizers`, as `transformers` 5 reads it.

The post-processor in tokenizer.json alone decides what frames a text (`<s>` before it, `</s>` after): transformers
drops `add_bos_token` and `add_eos_token` of tokenizer_config.json when there is a tokenizer.json, and so do we. Where a
tokenizer class of transformers builds something else than tokenizer.json says, the file is right. The files next to it
name more tokens (`token_files.py`). Truncation and padding set in the file are switched off.

Errors: `TokenizerError` for files and texts, `InputError` for arguments of the wrong kind. `tokenizers` is Rust, whose
panics arrive as a BaseException; they become `TokenizerError` too (Rust has printed its own line by then).
"""

from __future__ import annotations

import json
import operator
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tokenizers

from ...errors import InputError, TokenizerError
from ...handlers import raised_in_handler
from ...runtime.memory import memory_named
from ..files import looks_like, printable, quote, read_bytes
from ..paths import is_there
from .chat_template import Chats
from .growth import check_growth
from .template_files import ChatTemplates
from .token_files import read_token_files, tokenizer_class, with_prefix_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .clean_up import CleanUp
    from .pieces import Cutting, Pieces
    from .token_files import TokenFiles

__all__ = ["Tokenizer", "check_text"]

TOKENIZER = "tokenizer.json"
MAX_TOKENIZER = 256_000_000
MAX_ID = 2**32 - 1  # ids are 32-bit in tokenizers

#: Other formats that a directory may hold instead.
_OTHERS = (
    "tokenizer.model", "spiece.model", "source.spm", "target.spm", "sentencepiece.bpe.model", "vocab.json",
    "merges.txt", "vocab.txt", "tekken.json", "tiktoken.model",
)  # fmt: skip
#: Classes of transformers that write no tokenizer.json: one tokenizer for what is read and another for the answer, or
#: two files of which none alone has the ids.
_SLOW = frozenset({"MarianTokenizer", "M2M100Tokenizer", "BlenderbotSmallTokenizer"})
#: Classes that transformers' AutoTokenizer may miss, as of 5.24 -> the one that reads their files.
_SAID_OTHERWISE = dict.fromkeys(("T5Tokenizer", "MT5Tokenizer", "UMT5Tokenizer"), "T5Tokenizer")
#: What stands for a token that a model is asked for, where no file names it.
_MASKS = ("[MASK]", "<mask>")
#: tokenizer_config.json says more than this where it means "no limit".
_NO_LIMIT = 10**9
#: A byte's token, as a byte-fallback decoder reads it.
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer(Chats):
    """A tokenizer of one directory. `n_vocab` is the greatest id plus one; ids in between may be unused.

    `unsettled_ids`: byte tokens, whose text the ids after them may change. `filtered`: from a text to the clean-up of
    what follows it, where there is one. `max_tokens`: of a text with its frame, where tokenizer_config.json says so;
    `cut_side`: where a longer one is cut. `word_aware`: a piece that goes on a word is spelled with a mark of its own.
    `decoder_kinds`: the types of the decoder's parts.
    """

    decoder_kinds: frozenset[str]
    unsettled_ids: frozenset[int]
    filtered: type[CleanUp] | None
    max_tokens: int | None
    cut_side: Literal["right", "left"]
    word_aware: bool
    cls_id: int | None
    mask_id: int | None

    def __init__(self, inner: tokenizers.Tokenizer, files: TokenFiles, where: str) -> None:
        """Join tokenizer.json and the files next to it; `where` names it in messages."""
        self._inner = inner
        self._where = where
        with _panics_as_errors(where, "load"):
            inner.no_truncation()
            inner.no_padding()
            empty = inner.get_vocab_size(with_added_tokens=True) == 0
            files.add_to(inner, where)
            inner.encode_special_tokens = files.config.get("split_special_tokens") is True
            vocab = inner.get_vocab(with_added_tokens=True)
            self.n_vocab = 1 + max(vocab.values(), default=-1)
            bpe = type(inner.model).__name__ == "BPE"
            self.word_aware = bool(getattr(inner.model, "continuing_subword_prefix", None))
            self.decoder_kinds = frozenset(kinds(inner.decoder))
            falls_back = "ByteFallback" in self.decoder_kinds
        if empty:
            msg = f"{where}: the vocabulary is empty; get the checkpoint's tokenizer files again"
            raise TokenizerError(msg)
        special = {role: token.content for role, token in files.named.items()}
        self.special_tokens = special
        self.templates = ChatTemplates(Path(where).parent, files.config.get("chat_template"))
        self.bos_id, self.eos_id, self.pad_id = (
            self._id(special.get(f"{role}_token")) for role in ("bos", "eos", "pad")
        )
        self.unk_id = self._id(special.get("unk_token") or getattr(inner.model, "unk_token", None))
        self.cls_id = self._id(special.get("cls_token"))
        self.mask_id = next((vocab[t] for t in (special.get("mask_token"), *_MASKS) if t in vocab), None)
        self.max_tokens = _longest(files.config.get("model_max_length"))
        self.cut_side = "left" if files.config.get("truncation_side") == "left" else "right"
        bytes_of = (i for token, i in vocab.items() if _BYTE.fullmatch(token)) if falls_back else ()
        self.unsettled_ids = frozenset(bytes_of)
        tidies = files.config.get("clean_up_tokenization_spaces") is True
        told = files.config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output") is True
        self.filtered = None
        if tidies and (told or not bpe):
            from .clean_up import CleanUp  # noqa: PLC0415 - few need it

            self.filtered = CleanUp

    @classmethod
    def from_directory(cls, path: str | Path) -> Tokenizer:
        """Read tokenizer.json and, where present, the files next to it that name tokens (`token_files.py`)."""
        directory = Path(path)
        file = directory / TOKENIZER
        if not is_there(file, TokenizerError):
            raise TokenizerError(_no_tokenizer(directory))
        files = read_token_files(directory)
        return cls(_parse(file, files), files, str(file))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text, framed by the post-processor when `add_special_tokens`."""
        check_text(text)
        with _panics_as_errors(self._where, "encode a text"):
            ids: list[int] = self._inner.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def framed(
        self, text: str, max_tokens: int | None = None, *, pair: str | None = None
    ) -> tuple[list[int], list[int]]:
        """Ids of a whole text, or of two, framed by the post-processor, and the type of each.

        A single text of more than `max_tokens`, what frames it among them, is cut at its end, inside the frame.
        """
        check_text(text)
        if pair is not None:
            check_text(pair)
            with _panics_as_errors(self._where, "encode two texts"):
                both = self._inner.encode(text, pair)
                return both.ids, both.type_ids
        with _panics_as_errors(self._where, "encode a text"):
            encoding = self._inner.encode(text, add_special_tokens=False)
            if max_tokens is not None:
                encoding.truncate(max(0, max_tokens - self._inner.num_special_tokens_to_add(is_pair=False)))
            framed = self._inner.post_process(encoding)
            return framed.ids, framed.type_ids

    def windows(
        self,
        text: str | Sequence[str],
        pair: str | None = None,
        *,
        cutting: Cutting | None = None,
        add_special_tokens: bool = True,
    ) -> list[Pieces]:
        """Tokens of a whole text, of its words, or of two texts, with their places; several windows if it is cut so.

        Errors: `InputError` for a stride that is too large, or where no room is left for a text.
        """
        for each in [text] if isinstance(text, str) else text:
            check_text(each)
        if pair is not None:
            check_text(pair)
        with _panics_as_errors(self._where, "encode a text"):
            from .pieces import windows  # noqa: PLC0415 - few need it

            return windows(self._inner, text, pair, cutting, add_special_tokens=add_special_tokens)

    def joined(self, tokens: Sequence[str]) -> str:
        """The text of tokens by their spelling: what the decoder makes of them."""
        with _panics_as_errors(self._where, "join tokens"):
            decoder = self._inner.decoder
            text: str = " ".join(tokens) if decoder is None else decoder.decode(list(tokens))
        return text

    def opening(self, text: str) -> int:
        """Tokens of a text and of what frames it before, not of what frames it after: of a prompt."""
        check_text(text)
        with _panics_as_errors(self._where, "encode a text"):
            frame = self._inner.encode(text).special_tokens_mask
        after = next((i for i, special in enumerate(reversed(frame)) if not special), len(frame))
        return len(frame) - after

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids. An id without a token gives nothing: embeddings are often padded beyond the vocabulary."""
        text = self.spelled(ids, skip_special_tokens=skip_special_tokens)
        if self.filtered is None:
            return text
        from .clean_up import clean_up  # noqa: PLC0415 - few need it

        return clean_up(text)

    def spelled(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """As `decode`, before the clean-up that tokenizer_config.json may ask for."""
        checked = checked_ids(ids)
        with _panics_as_errors(self._where, "decode ids"):
            text: str = self._inner.decode(checked, skip_special_tokens=skip_special_tokens)
        return text

    def spelled_each(self, several: Sequence[Sequence[int]]) -> list[str]:
        """As `spelled`, of each of many; the ids are the tokenizer's own, unchecked."""
        with _panics_as_errors(self._where, "decode ids"):
            texts: list[str] = self._inner.decode_batch(several, skip_special_tokens=True)
        return texts

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each of many checked texts, without what frames them."""
        with _panics_as_errors(self._where, "encode texts"):
            return [each.ids for each in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def token_to_id(self, token: str) -> int | None:
        """The id of a token's exact spelling, or None."""
        if not isinstance(token, str):
            msg = f"a token must be a str, found {type(token).__name__} {quote(token)}"
            raise InputError(msg)
        if any("\ud800" <= c <= "\udfff" for c in token):  # half of a surrogate pair is in no vocabulary
            return None
        with _panics_as_errors(self._where, "look up a token"):
            return self._id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """The spelling in the vocabulary (not the text: see `decode`), or None."""
        checked = _checked_id(token_id)
        with _panics_as_errors(self._where, "look up an id"):
            token: str | None = self._inner.id_to_token(checked)
        return token

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the special tokens: matched whole in a text, skipped by `decode`."""
        with _panics_as_errors(self._where, "list its special tokens"):
            return tuple(i for i, token in self._inner.get_added_tokens_decoder().items() if token.special)

    @property
    def added_ids(self) -> tuple[int, ...]:
        """Ids of the added tokens, special ones too: matched whole in a text, and spelled as their text."""
        with _panics_as_errors(self._where, "list its added tokens"):
            return tuple(self._inner.get_added_tokens_decoder())

    def _id(self, token: str | None) -> int | None:
        number: int | None = None if token is None else self._inner.token_to_id(token)
        return number


def _longest(said: object) -> int | None:
    """Tokens of a text, as model_max_length says; None: nothing, or no limit."""
    if isinstance(said, bool) or not isinstance(said, int | float) or not 1 <= said < _NO_LIMIT:
        return None
    return int(said)


def check_text(text: object) -> None:
    """Errors: `InputError` for what is no text, `TokenizerError` for one that UTF-8 cannot spell."""
    if not isinstance(text, str):
        msg = f"a text must be a str, found {type(text).__name__} {quote(text)}"
        raise InputError(msg)
    try:
        text.encode()
    except UnicodeEncodeError as e:
        msg = f"the text holds a lone surrogate at {e.start}, which is not a character: repair it where it was decoded"
        raise TokenizerError(msg) from e


@contextmanager
def _panics_as_errors(where: str, what: str) -> Iterator[None]:
    """Anything that `tokenizers` raises becomes `TokenizerError`; Ctrl-C and exits pass."""
    with memory_named(f"{where}: cannot {what}"):
        try:
            yield
        except (MemoryError, TokenizerError, InputError):
            raise
        except Exception as e:
            raised_in_handler(e)
            if type(e).__module__ != "builtins" or isinstance(e, OSError):  # another thread's: a time-out
                raise
            msg = f"{where}: cannot {what}: {printable(e)}; the tokenizer file may be damaged: download it again"
            raise TokenizerError(msg) from e
        except BaseException as e:
            # pyo3's class for a Rust panic cannot be imported; it derives from BaseException.
            if type(e).__name__ != "PanicException":
                raise
            msg = f"{where}: cannot {what}: the tokenizers library panicked ({printable(e)}); the file is damaged"
            raise TokenizerError(msg) from e


def kinds(part: object) -> Iterator[str]:
    """The types of a decoder and of those that it is made of; likewise of a normalizer or pre-tokenizer."""
    state = getattr(part, "__getstate__", None)
    yield from _kinds(json.loads(state()) if state is not None and part is not None else None)


def _kinds(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield str(value.get("type"))
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _kinds(inner)


def _parse(file: Path, files: TokenFiles) -> tokenizers.Tokenizer:
    data = read_bytes(file, MAX_TOKENIZER, TokenizerError)
    if what := looks_like(data, want_json=True):
        msg = f"{file}: {what}"
        raise TokenizerError(msg)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        msg = f"{file}: expected JSON in UTF-8, found byte 0x{data[e.start]:02x} at {e.start}; download it again"
        raise TokenizerError(msg) from e
    try:
        parsed = json.loads(text)
        check_growth(parsed if isinstance(parsed, dict) else {}, str(file))
        if isinstance(parsed, dict) and with_prefix_space(parsed, files.config, file.parent):
            text = json.dumps(parsed)
    except (ValueError, RecursionError) as e:
        msg = f"{file}: cannot load: not valid JSON ({e}); the tokenizer file may be damaged: download it again"
        raise TokenizerError(msg) from e
    with _panics_as_errors(str(file), "load"):
        return tokenizers.Tokenizer.from_str(text)


def _no_tokenizer(directory: Path) -> str:
    """What to do about a directory without tokenizer.json."""
    others = [name for name in _OTHERS if is_there(directory / name, TokenizerError)]
    if not others:
        return f"{directory}: no {TOKENIZER}; copy it from the checkpoint's source"
    there, name = f"{directory}: no {TOKENIZER}, only {', '.join(others)}", tokenizer_class(directory)
    pieces = any(other.endswith((".model", ".spm")) for other in others)
    if "source.spm" in others or name in _SLOW:
        how = f"t = transformers.AutoTokenizer.from_pretrained({str(directory)!r})"
        needs = "pip install transformers" + (" sentencepiece" if pieces else "")
        return (
            f"{there}, of which transformers makes none either; make ids of a text with it ({needs}), and give them as "
            f"the prompt: `{how}`, `t(text)['input_ids']`; t.decode reads answers"
        )
    kind = _SAID_OTHERWISE.get(name, "AutoTokenizer")
    where = repr(str(directory))
    how = f"from transformers import {kind}; {kind}.from_pretrained({where}).save_pretrained({where})"
    needs = "pip install transformers" + (
        " sentencepiece protobuf" if pieces else ""
    )  # without these it asks for others
    return f"{there}; make one with transformers ({needs}), in Python: `{how}`"


def checked_ids(ids: object) -> list[int]:
    """Token ids as `tokenizers` takes them. Errors: `InputError`, for what is no list of them too."""
    try:
        listed: list[object] = list(ids)  # type: ignore[call-overload]  # what cannot be iterated is refused
    except TypeError as e:
        msg = f"token ids must be a list or an array of one dimension, found {quote(ids)}"
        raise InputError(msg) from e
    plain = [i for i in listed if type(i) is int]
    if plain and len(plain) == len(listed) and min(plain) >= 0 and max(plain) <= MAX_ID:
        return plain  # many are checked at once
    return [_checked_id(i) for i in listed]


def _checked_id(value: object) -> int:
    """A token id as `tokenizers` takes it: an integer of 32 bits; NumPy's integers too, booleans not."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number <= MAX_ID:
        msg = f"a token id must be an integer from 0 to {MAX_ID}, found {quote(value)}"
        raise InputError(msg)
    return number
