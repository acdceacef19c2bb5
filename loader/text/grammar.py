"""`schema`, `grammar`, `regex`: what may come next, by llguidance (the grammar extra), in masks of ours.

llguidance (Moskal et al., Microsoft; MIT) parses bytes: it is told the bytes of each token. A text's first token is
asked of another table where the tokenizer drops a space there; its bytes are then read one by one, by ids that no model
has. One more such id stands for the end of the text, so that no end of the model's is a text's character.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...errors import BackendError, InputError, shown
from ...once import once
from .bounds import check_grammar, check_regex
from .schema import Schema, schema_of
from .token_bytes import TokenBytes, token_bytes
from .trie import one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .tokenizer import Tokenizer

__all__ = ["INDENT", "Grammar", "Grammars", "embedded"]

#: Between two tokens of JSON there may be a space or a tab, or a line break and then at most this many of them.
INDENT = 16
_BLANKS = rf"[\x20\x09]|(\x0D|\x0A|\x0D\x0A)[\x20\x09]{{0,{INDENT}}}"
_WORD = 32
#: Texts that must come whose spelling is remembered: keys of schemas, mostly.
_KNOWN = 4096


class _Matcher(Protocol):
    """What is asked of `llguidance.LLMatcher`."""

    def unsafe_compute_mask_ptr(self, trg_pointer: int, trg_byte_size: int) -> None: ...
    def consume_tokens(self, sampled_tokens: list[int]) -> bool: ...
    def rollback(self, num_tokens: int) -> bool: ...
    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...
    def deep_copy(self) -> _Matcher: ...


class _Vocabulary:
    """A tokenizer as llguidance is told of it: ids 0 .. n - 1, then one for each byte, then the end."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, spelled: TokenBytes, *, first: bool) -> None:
        self._tokenizer, self._spelled, self._first = tokenizer, spelled, first
        self._known: dict[str, list[int]] = {}
        self._raised: dict[int, BaseException] = {}
        own = spelled.first if first else spelled.after
        self.words = -(-len(own) // _WORD)
        self.bytes_at = self.words * _WORD
        pad = [b""] * (self.bytes_at - len(own))
        self.tokens = [*own, *pad, *(bytes([b]) for b in range(256)), b"<end>"]
        self.eos_token_id = len(self.tokens) - 1
        self.special_token_ids = [self.eos_token_id]

    def __call__(self, text: str | bytes) -> list[int]:
        """How the tokenizer spells a text that must come: llguidance then lets no other spelling come.

        It is called from Rust, which takes an exception for a fault of its own: Ctrl-C is raised once it returned.
        """
        try:
            return self._spelling(text.decode() if isinstance(text, bytes) else text)
        except BaseException as e:  # noqa: BLE001 - `raised` has it
            self._raised[threading.get_ident()] = e
            return []

    def raised(self) -> BaseException | None:
        """What this thread's last call raised, once."""
        return self._raised.pop(threading.get_ident(), None) if self._raised else None

    def _spelling(self, text: str) -> list[int]:
        ids = self._known.get(text)
        if ids is None:
            ids = one(text, self._tokenizer, self._spelled, first=self._first)
            ids = [self.bytes_at + b for b in text.encode()] if ids is None else ids
            if len(self._known) < _KNOWN:
                self._known[text] = ids
        return ids


class Grammars:
    """What compiles constraints for a model's vocabulary. The first takes a while: tokens are sorted by their bytes."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        """Errors: `BackendError`: llguidance is not installed; `InputError`: a tokenizer that it cannot follow."""
        self._library, self.tokenizer = _llguidance(), tokenizer
        self.spelled, self.n_vocab = token_bytes(tokenizer, n_vocab), n_vocab
        self.vocabulary = _Vocabulary(tokenizer, self.spelled, first=False)
        self._after = self._sorted(self.vocabulary)

    def _sorted(self, vocabulary: _Vocabulary) -> Any:  # noqa: ANN401 - the library's
        n, end = len(vocabulary.tokens), vocabulary.eos_token_id
        return self._library.LLTokenizer(vocabulary, n_vocab=n, eos_token=end)

    @once
    def first(self) -> _Vocabulary:
        """Of a text's first token."""
        return _Vocabulary(self.tokenizer, self.spelled, first=True)

    @once
    def _first(self) -> Any:  # noqa: ANN401 - the library's
        return self._sorted(self.first)

    def compiled(self, name: str, value: object) -> Grammar:
        """Errors: `InputError` for what is no schema, grammar or regex, or asks for what is not supported."""
        if name == "schema":
            schema = schema_of(value)
            text = self._of_schema(schema)
        elif not isinstance(value, str) or not value:
            msg = f"{name}={shown(value)}: expected a text of at least one character"
            raise InputError(msg)
        else:
            (check_regex if name == "regex" else check_grammar)(value)
            schema, text = None, self._of_text(name, value)
        wrong, messages = self._library.LLMatcher.validate_grammar_with_warnings(text, self._after)
        if wrong:
            raise _refused(name, value, messages[0])
        made = Grammar(name, self, text, schema)
        try:
            made.first_mask()  # of what no text is, there is none
        except _StuckError as e:
            raise _refused(name, value, e.why) from None
        return made

    def _of_schema(self, schema: Schema) -> str:
        try:
            made = self._library.LLMatcher.grammar_from_json_schema(
                json.dumps(schema.rules), overrides=_options(schema)
            )
        except ValueError as e:  # half a surrogate pair, a number without end, lists too deep in one another
            name = "schema"
            raise _refused(name, schema.given, str(e)) from e
        text: str = made
        return text

    def _of_text(self, name: str, value: str) -> str:
        try:
            kind = "regex" if name == "regex" else "gbnf" if "::=" in value else "lark"
            text: str = self._library.grammar_from(kind, value)
        except ValueError as e:
            raise _refused(name, value, str(e)) from e
        return text

    def matcher(self, grammar: Grammar, *, first: bool) -> _Matcher:
        """At the beginning; `first`: for the masks of a text's first token alone."""
        made: _Matcher = self._library.LLMatcher(self._first if first else self._after, grammar.text, log_level=0)
        if made.is_error():
            raise _refused(grammar.name, grammar.text, made.get_error())
        return made


def embedded(schema: object) -> str:
    """A schema as a part of a grammar in Lark's notation, where it is the whole of a rule. Errors: `InputError`."""
    made = schema_of(schema)
    return f"%json {json.dumps({**made.rules, 'x-guidance': _options(made)})}"


def _options(schema: Schema) -> dict[str, object]:
    """How llguidance is to read a schema."""
    # A key that is spelled with \\u is another to the grammar, and the same to who reads it.
    escapes = {"json_allow_general_unicode_escapes": True} if schema.closed else {"json_allowed_escapes": '"\\bfnrt'}
    return {"whitespace_pattern": _BLANKS, **escapes, "lenient": False, "coerce_one_of": False}


class Grammar:
    """A compiled constraint: a `Constraint` of the runtime's."""

    def __init__(self, name: str, grammars: Grammars, text: str, schema: Schema | None) -> None:
        """Made by `Grammars.compiled`; `text`: as llguidance reads it."""
        self.name, self.text, self._grammars, self.schema = name, text, grammars, schema

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the model which it was made for."""
        return self._grammars.tokenizer

    @once
    def _after(self) -> _Matcher:
        return self._grammars.matcher(self, first=False)

    @once
    def _at_first(self) -> _Matcher:
        return self._grammars.matcher(self, first=True)

    def first_mask(self) -> None:
        """Fill the mask of what an answer begins with. Errors: `InputError`: there is none."""
        _Walk(self, self._grammars, begun=True).fill()

    def matcher(self, *, first: bool) -> _Matcher:
        """At the beginning, the caller's own; `first`: for the masks of a text's first token alone."""
        return (self._at_first if first else self._after).deep_copy()

    def begin(self, before: Sequence[int], n_vocab: int) -> _Walk:
        """An answer's way, after these ids. Errors: `InputError`: made for another vocabulary."""
        if n_vocab != self._grammars.n_vocab:
            msg = f"{self.name}: it was made for a vocabulary of {self._grammars.n_vocab} ids, not of {n_vocab}"
            raise InputError(msg)
        return _Walk(self, self._grammars, begun=self._grammars.spelled.begun(before))


class _Walk:
    """A parser's state; its masks lie in one array, whose last word says whether the text may end."""

    def __init__(self, grammar: Grammar, grammars: Grammars, *, begun: bool) -> None:
        self._grammar, self._grammars = grammar, grammars
        self._matcher = grammar.matcher(first=False)
        self._head = None if begun else grammar.matcher(first=True)
        self._walked: list[int] = []
        words, end = grammars.vocabulary.words, grammars.vocabulary.eos_token_id
        self._all = np.zeros(end // _WORD + 1, np.uint32)
        self._mask, self._end = self._all[:words], (end // _WORD, end % _WORD)

    def fill(self) -> tuple[NDArray[np.uint32], bool]:
        """As `Walk.fill`."""
        return self._mask, self._filled(self._all)

    def _filled(self, mask: NDArray[np.uint32]) -> bool:
        """Write the mask; whether the text may end."""
        matcher = self._matcher if self._head is None else self._head
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        error = (self._grammars.vocabulary if self._head is None else self._grammars.first).raised()
        if error is not None:
            try:
                raise error
            finally:
                del error  # an exception whose calls hold it keeps all that they hold
        if matcher.is_error():
            raise self._stuck(matcher)
        word, bit = self._end
        return bool(mask[word] >> bit & 1)

    def ahead(self, drafted: Sequence[int]) -> list[tuple[NDArray[np.uint32], bool]]:
        """As `Walk.ahead`."""
        made: list[tuple[NDArray[np.uint32], bool]] = []
        mask, n = self._mask, 0
        try:
            for token in drafted if self._head is None else ():
                if not mask[token // _WORD] >> token % _WORD & 1 or not self._matcher.consume_tokens([token]):
                    break
                n, whole = n + 1, np.zeros_like(self._all)
                made.append((whole[: mask.size], self._filled(whole)))
                mask = made[-1][0]
        except InputError:  # it gave up on what perhaps never comes
            self._matcher = self._grammar.matcher(first=False)
            self._matcher.consume_tokens(self._walked)
            n = 0
        finally:
            self._matcher.rollback(n)
        return made

    def advance(self, token: int) -> None:
        """As `Walk.advance`."""
        tokens = [token]
        if self._head is not None:
            first_byte = self._grammars.vocabulary.bytes_at
            tokens, self._head = [first_byte + b for b in self._grammars.spelled.first[token]], None
        self._walked += tokens
        if not self._matcher.consume_tokens(tokens):
            raise self._stuck(self._matcher)

    def check(self, text: str) -> None:
        """As `Walk.check`: a schema's text is parsed, and validated where jsonschema is installed."""
        if self._grammar.schema is not None:
            self._grammar.schema.check(text)

    def _stuck(self, matcher: _Matcher) -> _StuckError:
        name, why = self._grammar.name, _first_line(matcher.get_error())
        msg = f"{name}: llguidance gave up in the middle of the answer ({why}); ask for something simpler"
        error = _StuckError(msg)
        error.why = why
        return error


class _StuckError(InputError):
    """No id can go on, or too many things could; `why`: in llguidance's words."""

    why = ""


def _refused(name: str, value: object, message: str) -> InputError:
    """What llguidance says, and where in the caller's text."""
    what, said = "" if name == "schema" else f"={shown(value, 80)}", _first_line(message)
    if name == "regex":  # which is line 1 of a grammar that was made of it
        said = re.sub(r"^\d+\(\d+\): ", "", said)
    return InputError(f"{name}{what}: llguidance refuses it: {said}; change it there")


def _first_line(message: str) -> str:
    """Its message without the picture, and without the places of a text that it made of the caller's."""
    message = message.partition("<state>")[0]  # what follows is for its authors
    if "NoExtensionBias" in message:
        return "no token can go on, as no text is as is asked for"
    lines = [line.strip() for line in message.splitlines()]
    said = [line for line in lines if line and set(line) - {"^", " ", "|"} and not line[0].isdigit() and line[0] != "|"]
    text = " ".join(said or lines[:1]).removeprefix("at ")
    return text if len(text) <= 300 else text[:297] + "..."  # noqa: PLR2004 - a message's length


def _llguidance() -> Any:  # noqa: ANN401 - an optional package, whose functions are called by name
    try:
        import llguidance  # noqa: PLC0415 - of the grammar extra
    except ImportError as e:
        msg = (
            f"needs llguidance ({e}): pip install 'miaotui[grammar]', or in a clone '.[grammar]'; choices does without"
        )
        raise BackendError(msg) from e
    return llguidance
