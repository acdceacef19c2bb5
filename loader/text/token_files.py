"""What the files next to tokenizer.json say of its tokens, joined as `transformers` 5 joins them.

| file                    | counts                                                                                    |
|-------------------------|-------------------------------------------------------------------------------------------|
| tokenizer_config.json   | always: every key ending in `_token`, `additional_special_tokens` or                      |
|                         | `extra_special_tokens`, `added_tokens_decoder` (its flags win over tokenizer.json's)      |
| special_tokens_map.json | where there is no `added_tokens_decoder`; then it wins over tokenizer_config.json         |
| added_tokens.json       | where there is no `added_tokens_decoder`; flags in tokenizer.json win                     |

A token that they name and that tokenizer.json does not list as added is added, special: it is matched whole in a text,
and skipped when ids are decoded. One that is in no vocabulary gets the next id. Source: transformers 5,
`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from ...dataclass import dataclass
from ...errors import TokenizerError
from ..families import FAMILIES
from ..files import quote, read_json_object
from ..paths import is_there

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import tokenizers

__all__ = ["TokenFiles", "read_token_files", "tokenizer_class", "with_prefix_space"]

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
MODEL = "config.json"
MAX_CONFIG = 16_000_000
DECODER, MORE, EXTRA = "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"
_DIGITS = 10  # of an id of 32 bits
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
#: Classes of transformers 5 that are rebuilt with tokenizer_config.json's add_prefix_space, by the pre-tokenizer they
#: have; all others, and a file without that key, leave it to tokenizer.json.
_REBUILT = {
    "ByteLevel": frozenset({"GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer", "CodeGenTokenizer"}),
    "Metaspace": frozenset({"LlamaTokenizer", "CodeLlamaTokenizer"}),
}


#: Names that must be tokens; other keys ending in `_token` are where they are strings or objects.
_NAMED = frozenset(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


@dataclass(frozen=True)
class TokenFiles:
    """`named`: key -> token; `listed`: those without a name. `config` is tokenizer_config.json's other keys.

    `added`: id -> token; where it is `implied`, by added_tokens.json, flags in tokenizer.json win.
    """

    config: dict[str, Any]
    named: dict[str, AddedToken]
    listed: tuple[AddedToken, ...]
    added: dict[int, AddedToken]
    implied: bool

    def add_to(self, inner: tokenizers.Tokenizer, where: str) -> None:
        """Add what tokenizer.json lacks, and set flags that win over its. `TokenizerError`: an id would be another."""
        there = {token.content: token for token in inner.get_added_tokens_decoder().values()}
        before = {token.content: inner.token_to_id(token.content) for token in self.added.values()}
        wanted = {token.content: token for _, token in sorted(self.added.items())}
        if self.implied:
            wanted |= {content: token for content, token in there.items() if content in self._names | wanted.keys()}
        for content in self._names & wanted.keys():
            wanted[content].special = True
        for token in (*self.named.values(), *self.listed):
            if token.content not in there:
                wanted.setdefault(token.content, token)
        inner.add_tokens(list(wanted.values()))
        for number, token in self.added.items():
            got = inner.token_to_id(token.content)
            if before[token.content] is None and got != number:
                msg = (
                    f"{where}: has no token {quote(token.content)}, which is {number} for the files next to it, and "
                    f"would be {got}; fetch the checkpoint's tokenizer files again"
                )
                raise TokenizerError(msg)

    @property
    def _names(self) -> frozenset[str]:
        return frozenset(token.content for token in self.named.values())


def read_token_files(directory: Path) -> TokenFiles:
    """Read those that are there. Errors: `TokenizerError`."""
    config, where = _read(directory, CONFIG), str(directory / CONFIG)
    decoder = config.pop(DECODER, None)
    implied = decoder is None
    if implied:
        config = _joined(config, _read(directory, SPECIAL))
    named = {key: token for key, value in config.items() if (token := _named(key, value, where)) is not None}
    lists = config.get(EXTRA) or config.get(MORE) or []
    if isinstance(lists, dict):
        named |= {key: token for key, value in lists.items() if (token := _token(value, EXTRA, where)) is not None}
        lists = []
    if not isinstance(lists, list):
        raise _refused(where, EXTRA if config.get(EXTRA) else MORE, lists, "a list of tokens")
    listed = tuple(token for value in lists if (token := _token(value, EXTRA, where)) is not None)
    special = {token.content for token in (*named.values(), *listed)}
    said = _read(directory, ADDED) if implied else decoder
    added = _implied(said, special, str(directory / ADDED)) if implied else _decoder(said, where)
    return TokenFiles(config, named, listed, added, implied)


def _read(directory: Path, name: str) -> dict[str, Any]:
    there = is_there(directory / name, TokenizerError)
    return read_json_object(directory / name, MAX_CONFIG, TokenizerError) if there else {}


def _joined(config: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with special_tokens_map.json, which wins; lists of both are joined."""
    first, second = (some.get(EXTRA) or some.get(MORE) for some in (config, special))
    lists = [*first, *second] if isinstance(first, list) and isinstance(second, list) else second or first
    return {**config, **special} | ({EXTRA: lists} if isinstance(first, list) and isinstance(second, list) else {})


def _named(key: str, value: object, where: str) -> AddedToken | None:
    if not key.endswith("_token") or (key not in _NAMED and not isinstance(value, str | dict)):
        return None
    return _token(value, key, where)


def _token(value: object, key: str, where: str) -> AddedToken | None:
    """A special token: its text, or an object with `content` and flags; None for null and "". `TokenizerError`."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return _added(value, key, where, special=True)
    return _with_flags(value, key, where, special=True)


def _with_flags(value: object, key: str, where: str, **flags: bool) -> AddedToken:
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise _refused(where, key, value, "a string or an object with content")
    told = {name: value[name] for name in _FLAGS if isinstance(value.get(name), bool)}
    return _added(value["content"], key, where, **{**told, **flags})


def _added(text: str, key: str, where: str, **flags: bool) -> AddedToken:
    """An added token. `TokenizerError`: half a surrogate pair, which JSON can spell and no text can hold."""
    try:
        return AddedToken(text, **flags)
    except UnicodeEncodeError as e:
        raise _refused(where, key, text, "text without lone surrogates") from e


def _decoder(said: object, where: str) -> dict[int, AddedToken]:
    """added_tokens_decoder: {"257": {"content": "<|user|>", "special": true, ...}}."""
    if not isinstance(said, dict) or not all(key.isascii() and key.isdigit() and len(key) <= _DIGITS for key in said):
        raise _refused(where, DECODER, said, "an object of ids and tokens")
    return {int(key): token for key, value in said.items() if (token := _with_flags(value, DECODER, where)).content}


def _implied(said: dict[str, Any], special: set[str], where: str) -> dict[int, AddedToken]:
    """added_tokens.json: {"<|user|>": 257}; special where another file names it so."""
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in said.values()):
        raise _refused(where, "its values", said, "ids")
    told = {number: text for text, number in said.items() if text}
    return {
        n: _added(text, f"token {n}", where, normalized=text not in special, special=text in special)
        for n, text in told.items()
    }


def _refused(where: str, key: str, value: object, expected: str) -> TokenizerError:
    return TokenizerError(f"{where}: {key} must be {expected}, found {quote(value)}")


def with_prefix_space(file: dict[str, Any], config: dict[str, Any], directory: Path) -> bool:
    """Set tokenizer_config.json's add_prefix_space in a parsed tokenizer.json, where transformers does: if it did."""
    wanted = config.get("add_prefix_space")
    if not isinstance(wanted, bool):
        return False
    name, changed = _class(config, directory), False
    for step in _steps(file.get("pre_tokenizer")):
        if name not in _REBUILT.get(str(step.get("type")), ()):
            continue
        if step["type"] == "ByteLevel":
            changed |= step.get("add_prefix_space") is not wanted
            step["add_prefix_space"] = wanted
        elif wanted is (step.get("prepend_scheme") == "never"):
            changed = True
            step["prepend_scheme"] = "always" if wanted and config.get("legacy") else "first" if wanted else "never"
    return changed


def _steps(part: object) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for inner in part["pretokenizers"] if isinstance(part.get("pretokenizers"), list) else ():
            yield from _steps(inner)


def tokenizer_class(directory: Path) -> str:
    """The class that transformers reads a directory's tokenizer with, without "Fast". Errors: `TokenizerError`."""
    return _class(_read(directory, CONFIG), directory)


def _class(config: dict[str, Any], directory: Path) -> str:
    """The tokenizer's class as transformers chooses it, without "Fast"."""
    name = config.get("tokenizer_class")
    if name is None and is_there(directory / MODEL, TokenizerError):
        model = read_json_object(directory / MODEL, MAX_CONFIG, TokenizerError)
        kind = model.get("model_type")
        family = FAMILIES.get(kind) if isinstance(kind, str) else None
        name = model.get("tokenizer_class") or (family.tokenizer_class if family is not None else None)
    return str(name).removesuffix("Fast")
