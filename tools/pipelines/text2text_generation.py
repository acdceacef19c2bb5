"""text2text-generation, summarization, translation: an encoder-decoder's answer to a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError, shown
from ..notes import warn
from .generation import GENERATION, GenerationPipeline
from .truncation import cutting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...loader.text.pieces import Pieces
    from .base import Options

__all__ = ["Summarization", "Text2TextGeneration", "Translation"]


class Text2TextGeneration(GenerationPipeline):
    """`pipe(text)`: `[{"generated_text"}]`, of a list a flat list; with `num_return_sequences` a list for each item.

    Parameters of `generate`, with `max_length` and `min_length`; `truncation`: cut a text that is too long;
    `return_tensors`: `generated_token_ids`, a list, in place of the text. By default beams, four, and 256 tokens.
    `logprobs` (with num_beams=1): a result has "logprobs" too.
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "return_tensors": None, "return_text": None, "clean_up_tokenization_spaces": False, "truncation": None,
        "stop_sequence": None, **GENERATION,
    }  # fmt: skip
    switches = ("return_tensors", "return_text", "clean_up_tokenization_spaces", "do_sample")
    defaults: ClassVar[Mapping[str, object]] = {"max_new_tokens": 256, "num_beams": 4}
    seq2seq = True
    #: What a result's keys begin with.
    returned: ClassVar[str] = "generated"

    def __call__(self, inputs: object, **parameters: object) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As `Pipeline.__call__`; results of one sequence each come without their lists, as transformers has it."""
        result = super().__call__(inputs, **parameters)
        if isinstance(inputs, list | tuple) and all(len(each) == 1 for each in result):
            return [each[0] for each in result]
        return result

    def answer(self, item: object, options: Options) -> list[dict[str, Any]]:
        """As `GenerationPipeline.answer`."""
        if not isinstance(item, str):
            msg = f"{self.task}: {shown(item)} found, expected a text"
            raise InputError(msg)
        ids, more = self.read(item, options)
        made = self.generated(ids, options, **more)
        answers, told = [[self._start(options), *each.ids] for each in made], [self.told(each) for each in made]
        if options["return_tensors"]:
            pad, longest = self.model.tokenizer.pad_id or 0, max(map(len, answers))
            answers = [each + [pad] * (longest - len(each)) for each in answers]
            return [{f"{self.returned}_token_ids": each, **how} for each, how in zip(answers, told, strict=True)]
        every = zip(answers, made, strict=True)
        texts = (self.decoded(ids, options) if each.filtered is None else each.text for ids, each in every)
        return [{f"{self.returned}_text": text, **how} for text, how in zip(texts, told, strict=True)]

    def read(self, text: str, options: Options) -> tuple[list[int], dict[str, Any]]:
        """The ids that the encoder reads, and what the answer is told."""
        return self.pieces(self.prefix() + text, options).ids, self.stops(options)

    def pieces(self, text: str, options: Options) -> Pieces:
        """A text's tokens, cut where it is asked for."""
        how = cutting(self, {"truncation": options["truncation"], "max_length": None})
        [pieces] = self.model.tokenizer.windows(text, cutting=how)
        return pieces

    def _start(self, options: Options) -> int:
        start, decoding = options["decoder_start_token_id"], self.model.config.decoding
        if isinstance(start, str):
            start = self.model.tokenizer.token_to_id(start)
        return start if isinstance(start, int) else 0 if decoding is None else decoding.start


class Summarization(Text2TextGeneration):
    """`pipe(text)`: `[{"summary_text"}]`; as `Text2TextGeneration`."""

    returned = "summary"


class Translation(Text2TextGeneration):
    """`pipe(text)`: `[{"translation_text"}]`; as `Text2TextGeneration`.

    `src_lang`, `tgt_lang`: of a model of many languages, their codes as its tokenizer spells them ("eng_Latn", "en_XX",
    "en"); of others they change nothing but the prefix that config.json may have for "translation_en_to_de".
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "src_lang": None, "tgt_lang": None, "spelled": None, **Text2TextGeneration.parameters,
    }  # fmt: skip
    returned = "translation"

    @property
    def named(self) -> str:
        """The task as it was spelled, with its languages; without them, the first that config.json names."""
        spelled, every = self._settings.get("spelled"), self.model.config_json.get("task_specific_params")
        if isinstance(spelled, str):
            return spelled
        return next((key for key in every or () if str(key).startswith(self.task)), self.task)

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; languages that would change nothing are warned of."""
        options = super().options(given)
        asked = [name for name in ("src_lang", "tgt_lang") if given.get(name) is not None]
        if asked and given.get("spelled") is None and not self._languages(self.model.tokenizer.windows("")[0]):
            warn(
                f"{' and '.join(asked)}: this model's tokenizer frames a text with no language, so nothing changes; "
                f"leave {'it' if len(asked) == 1 else 'them'} out, or name the task as config.json has it, such as "
                "translation_en_to_de"
            )
        return options

    def _languages(self, pieces: Pieces) -> list[int]:
        """Where the frame of a text names a language."""
        tokenizer = self.model.tokenizer
        named = set(tokenizer.special_tokens.values())
        return [n for n, i in enumerate(pieces.ids) if pieces.special[n] and tokenizer.id_to_token(i) not in named]

    def read(self, text: str, options: Options) -> tuple[list[int], dict[str, Any]]:
        """As `Text2TextGeneration.read`; where the frame names a language, it is the text's."""
        pieces = self.pieces(text, options)
        places = self._languages(pieces)
        if not places:
            return super().read(text, options)
        languages = {name: self._language(name, options[name]) for name in ("src_lang", "tgt_lang")}
        ids = [languages["src_lang"] if n in places else i for n, i in enumerate(pieces.ids)]
        return ids, {"forced_bos_token_id": languages["tgt_lang"], **self.stops(options)}

    def _language(self, name: str, code: object) -> int:
        tokenizer = self.model.tokenizer
        if code is None:
            msg = f"{name}: not given, and this model translates between many languages; give src_lang and tgt_lang"
            raise InputError(msg)
        special = set(tokenizer.special_ids) | set(tokenizer.added_ids)
        for token in (code, f"__{code}__") if isinstance(code, str) else ():
            number = tokenizer.token_to_id(token)
            if number in special and number is not None:
                return number
        spelled = [tokenizer.id_to_token(i) for i in sorted(special)]
        known = [token for token in spelled if token is not None]
        near = [token for token in known if isinstance(code, str) and code[:2] in token][:5] or known[-3:]
        msg = f"{name}={shown(code)}: this model has no such language; it spells them like {', '.join(near)}"
        raise InputError(msg)
