"""What the pipelines that write text share: which parameters hold, and their answers as ids.

The parameters of an answer are, each before the next: those of the call, of the constructor, of config.json's
`task_specific_params` for the task, the pipeline's defaults, generation_config.json (or, without one, config.json),
transformers' own. A `max_length` that the files say takes the place of the default `max_new_tokens`; otherwise
`max_new_tokens` wins over `max_length`. Source: transformers 4.57.6, `Pipeline.__init__`, `_prepare_generation_config`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ...errors import InputError, shown
from ...loader.text.clean_up import clean_up
from ...runtime.parameters import GenerateKwargs, switch, whole_number
from .base import Pipeline, placed
from .foreign import refuse_foreign

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...runtime.generate import Generation
    from ...runtime.logprobs import Logprob
    from .base import Options

__all__ = ["GENERATION", "GenerationPipeline"]

#: Parameters of an answer that a call may give.
GENERATION: dict[str, object] = dict.fromkeys((*GenerateKwargs.__annotations__, "max_length", "min_length"))
#: Those that the model's files may say; ids that an encoder-decoder's answers begin with, or never have, are its own.
_OF_FILES = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "max_length",
    "min_new_tokens", "min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_beams",
    "length_penalty", "early_stopping", "num_return_sequences",
)  # fmt: skip
#: transformers' defaults, where ours are others.
_TOP_K, _MAX_LENGTH = 50, 20
_OF_BEAMS = ("length_penalty", "early_stopping")
_OF_SAMPLING = ("temperature", "top_p", "min_p", "seed")
#: transformers' parameters that change nothing here: texts are not padded, and keys and values are always kept.
NO_PADDING = ("pad_token_id", "use_cache")
#: Parameters that are worked out here.
_OWN = ("max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample", "top_k", "num_return_sequences")


class GenerationPipeline(Pipeline):
    """Of a model that writes text. A subclass says its `defaults`, and gives `answer`."""

    #: Parameters of an answer, before those that the model's files say.
    defaults: ClassVar[Mapping[str, object]] = {}
    #: Whether it is for an encoder-decoder.
    seq2seq: ClassVar[bool] = False

    @abstractmethod
    def answer(self, item: object, options: Options) -> list[dict[str, Any]]:
        """The results of one item, one for each sequence that is returned. Errors: `InputError`."""

    def check(self) -> None:
        """Errors: `InputError` for another kind of model; `TokenizerError`."""
        config = self.model.config
        if not config.writes or config.seq2seq != self.seq2seq or not config.lm_head:
            kind = config.kind + ("" if config.decoder is None or config.lm_head else " without a head")
            wanted = (
                "an encoder-decoder (...ForConditionalGeneration)" if self.seq2seq else "a decoder (...ForCausalLM)"
            )
            msg = f"{self.task}: this {config.family} model is {kind}; expected {wanted}"
            raise InputError(msg)
        self.model.tokenizer  # noqa: B018 - reads it: TokenizerError where there is none

    @property
    def named(self) -> str:
        """What config.json may call this task."""
        return self.task

    @property
    def max_tokens(self) -> int:
        """Tokens of a text: what tokenizer_config.json says, at most the model's positions."""
        said = self.model.tokenizer.max_tokens
        return self.model.n_context if said is None else min(said, self.model.n_context)

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; None is "not given", and `n` is `num_return_sequences`."""
        refuse_foreign(given)
        given = {key: value for key, value in given.items() if value is not None and key not in NO_PADDING}
        if "n" in given:
            if "num_return_sequences" in given:
                msg = "n and num_return_sequences are the same parameter: give one of them"
                raise InputError(msg)
            given = {("num_return_sequences" if key == "n" else key): value for key, value in given.items()}
        if "filters" in given and switch("return_tensors", given.get("return_tensors", False)):
            msg = "return_tensors: ids are what the model wrote, which filters do not change; leave one of them out"
            raise InputError(msg)
        return super().options(given)

    def stream(self, items: Iterator[Any], options: Options, *, numbered: bool) -> Iterator[Any]:
        """As `Pipeline.stream`."""
        for n, item in enumerate(items):
            with placed(n if numbered else None):
                result = self.answer(item, options)
            yield result

    def prefix(self) -> str:
        """What stands before every text, as config.json says."""
        said = self._task_params().get("prefix", self.model.config_json.get("prefix"))
        return said if isinstance(said, str) else ""

    def _task_params(self) -> Mapping[str, Any]:
        every = self.model.config_json.get("task_specific_params")
        said = every.get(self.named) if isinstance(every, Mapping) else None
        return said if isinstance(said, Mapping) else {}

    def _merged(self, options: Options) -> dict[str, Any]:
        """The parameters that hold, by transformers' names."""
        generation = self.model.generation_json
        said = self.model.config_json if generation is None else generation
        merged: dict[str, Any] = dict(self.defaults)
        merged |= {key: said[key] for key in _OF_FILES if key not in merged and said.get(key) is not None}
        if merged.get("max_length", _MAX_LENGTH) != _MAX_LENGTH:
            merged.pop("max_new_tokens")
        merged |= {key: value for key, value in self._task_params().items() if key in _OF_FILES and value is not None}
        return merged | {key: options[key] for key in GENERATION if options.get(key) is not None}

    def generated(self, prompt: Sequence[int], options: Options, **more: Any) -> list[Generation]:  # noqa: ANN401 - `GenerateKwargs`
        """Answers to ids. Errors: `InputError`."""
        merged = self._merged(options) | more
        read = 1 if self.seq2seq else len(prompt)  # ids that max_length and min_length count too
        many = whole_number("num_return_sequences", merged.get("num_return_sequences", 1), of="sequences")
        beams = whole_number("num_beams", merged.get("num_beams", 1), of="beams")
        sampled = switch("do_sample", merged.get("do_sample", False))
        left = {key: value for key, value in merged.items() if key in GENERATION and key not in _OWN}
        left = {key: value for key, value in left.items() if beams != 1 or key not in _OF_BEAMS}
        left = {key: value for key, value in left.items() if sampled or key not in _OF_SAMPLING}
        left |= {"do_sample": sampled, "max_new_tokens": _longest(merged, read), "min_new_tokens": _least(merged, read)}
        if sampled:
            left["top_k"] = merged.get("top_k", _TOP_K)
        if beams == 1 and many > 1:
            return self._several(prompt, left, many, sampled=sampled)
        if many > 1:
            left["num_return_sequences"] = many
        best = self.model.generate(prompt, **cast("GenerateKwargs", left))
        return [best, *best.alternatives]

    def _several(self, prompt: Sequence[int], left: dict[str, Any], many: int, *, sampled: bool) -> list[Generation]:
        """Answers drawn one after the other: with a seed, of it and those that follow it."""
        if not sampled:
            msg = f"num_return_sequences={many}: the likeliest answer is one; give do_sample=True, or num_beams"
            raise InputError(msg)
        seed = left.pop("seed", None)
        if seed is not None and (isinstance(seed, bool | np.bool_) or not isinstance(seed, Integral)):
            msg = f"seed={shown(seed)}: expected an integer, or None (drawn afresh)"
            raise InputError(msg)
        seeds = ({} if seed is None else {"seed": int(seed) + i} for i in range(many))
        return [self.model.generate(prompt, **cast("GenerateKwargs", left | one)) for one in seeds]

    def decoded(self, ids: Sequence[int], options: Options) -> str:
        """Text of ids, with or without the spaces that English does not write."""
        text = self.model.tokenizer.spelled(ids, skip_special_tokens=options.get("skip_special_tokens") is not False)
        return clean_up(text) if options["clean_up_tokenization_spaces"] else text

    def told(self, made: Generation) -> dict[str, Any]:
        """The log-probabilities of an answer's tokens, where they were asked for: a dict of each, under "logprobs"."""
        return {} if made.logprobs is None else {"logprobs": [self._told(each) for each in made.logprobs]}

    def _told(self, each: Logprob) -> dict[str, Any]:
        told = self._likely(each.id, each.logprob)
        likeliest = [self._likely(i, logprob) for i, logprob in each.top_logprobs]
        return told | ({"top_logprobs": likeliest} if likeliest else {})

    def _likely(self, token: int, logprob: float | None) -> dict[str, Any]:
        spelled = self.model.tokenizer.decode([token], skip_special_tokens=False)
        return {"token": token, "token_str": spelled, "logprob": logprob}

    def stops(self, options: Options) -> dict[str, Any]:
        """`stop_sequence`, whose first id ends an answer."""
        text = options["stop_sequence"]
        if text is None:
            return {}
        ids = self.model.tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) else []
        if not ids:
            msg = f"stop_sequence={shown(text)}: expected a text"
            raise InputError(msg)
        return {"eos_token_id": ids if not self.seq2seq else ids[:1]}


def _longest(merged: Mapping[str, Any], read: int) -> Any:  # noqa: ANN401 - a number, checked by `generate`
    """Tokens of an answer at most."""
    if merged.get("max_new_tokens") is not None:
        return merged["max_new_tokens"]
    length = whole_number("max_length", merged.get("max_length", _MAX_LENGTH), of="tokens")
    if length <= read:
        msg = f"max_length={length}: the prompt has {read} tokens already; give a greater one, or max_new_tokens"
        raise InputError(msg)
    return length - read


def _least(merged: Mapping[str, Any], read: int) -> Any:  # noqa: ANN401 - as above
    """Tokens of an answer at least."""
    new = merged.get("min_new_tokens")
    length = whole_number("min_length", merged.get("min_length", 0), least=0, of="tokens")
    return max(0, length - read) if new is None else new
