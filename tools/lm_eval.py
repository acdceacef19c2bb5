"""An adapter for EleutherAI's lm-evaluation-harness (the extra `lm-eval`): its tasks on our models.

    from lm_eval import simple_evaluate
    from miaotui.tools.lm_eval import MiaotuiLM

    simple_evaluate(MiaotuiLM("path/or/hub-name"), tasks=["piqa"])

A context is computed once for all of its continuations. Texts are cut from the left where they do not fit the model.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, InputError
from ..model import Model, load
from .perplexity import check_predicts

try:
    import lm_eval.models  # noqa: F401 - the harness looks for its own models only where none is registered
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as e:
    msg = "miaotui.tools.lm_eval needs lm-eval: pip install 'miaotui[lm-eval]'"
    raise BackendError(msg) from e

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Unpack

    from ..load_options import LoadKwargs
    from ..runtime.generate import Generation

    #: A context and a continuation as texts, and their ids.
    Asked = tuple[tuple[str, str], list[int], list[int]]

__all__ = ["MiaotuiLM"]

#: What the harness asks of every model, and here has no effect: passes are packed by tokens.
_NO_EFFECT = ("batch_size", "max_batch_size")
#: Tokens of an answer where a task does not say.
MAX_GEN_TOKS = 256


@register_model("miaotui")
class MiaotuiLM(TemplateLM):  # type: ignore[misc]  # the harness is not imported when types are checked
    """A model as the harness calls it. `model`: a directory, a hub name, or a loaded `Model`, which is not closed."""

    def __init__(self, pretrained: str | Path | Model, **options: Unpack[LoadKwargs]) -> None:
        """`options`: of `load`; None is none. Errors: `InputError` for a model that predicts no next token."""
        super().__init__()
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None and k not in _NO_EFFECT}
        if isinstance(pretrained, Model) and given:
            wrong = f"{next(iter(given))}: an option of load, and this model is loaded; leave it out"
            raise InputError(wrong)
        self.model = pretrained if isinstance(pretrained, Model) else load(pretrained, **given)
        check_predicts(self.model.config, "lm-evaluation-harness")
        self._template: str | None = None  # name of a chat template; None: the model's own

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        ends = self.model.config.eos_ids or self.model.config.bos_ids
        if not ends:
            wrong = f"{self.model!r}: has neither an end nor a begin of text, which the harness puts before texts"
            raise InputError(wrong)
        return int(ends[0])

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        begins = self.model.config.bos_ids
        return int(begins[0]) if begins else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """Names the harness's cache of requests."""
        return repr(self.model)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:  # noqa: FBT001 - the harness's
        """Ids of a text, with what the tokenizer puts before it, unless False, and without what it puts after."""
        encode = self.model.tokenizer.encode
        bare = encode(string, add_special_tokens=False)
        if add_special_tokens is False:
            return bare
        framed: list[int] = encode(string)
        n = len(bare)
        before = next((at for at in range(len(framed) - n + 1) if framed[at : at + n] == bare), 0)
        if before and bare[:before] == framed[:before]:  # a chat template wrote it
            return bare
        return framed[: before + n]

    def chat_template(self, chat_template: bool | str = False) -> str | None:  # noqa: FBT001, FBT002 - the harness's
        """The chat template, for the harness's records: the model's own (True), or one of its names; False: None."""
        if chat_template is False or chat_template is None:
            return None
        _, template = self.model.tokenizer.templates.chosen(
            None if chat_template is True else chat_template, tools=False
        )
        self._template = None if chat_template is True else chat_template
        return template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: FBT001, FBT002 - the harness's
        """A conversation as text, by the template that `chat_template` chose; `tok_encode` does not double its `<s>`.

        `add_generation_prompt`: end with what begins an answer, or else inside the last message, which goes on. Errors:
        `InputError`, also where the template refuses a role: `system_instruction` makes a system message.
        """
        return self.model.tokenizer.apply_chat_template(
            chat_history,
            chat_template=self._template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            tokenize=False,
        )

    def _loglikelihood_tokens(self, requests: list[Asked], **_: object) -> list[tuple[float, bool]]:
        out: list[tuple[float, bool]] = []
        cut = [(key, *self._cut(context, after)) for key, context, after in requests]
        for _context, same in groupby(cut, lambda request: request[1]):
            group = list(same)
            answers = self._likelihoods(group[0][1], [request[2] for request in group])
            for (key, *_ids), answer in zip(group, answers, strict=True):
                self.cache_hook.add_partial("loglikelihood", key, answer)
            out += answers
        return out

    def _likelihoods(self, context: list[int], asked: list[list[int]]) -> list[tuple[float, bool]]:
        """log p of each continuation, and whether greedy decoding writes it; one without a token is certain.

        The sum is Python's own, as the harness sums what servers tell: the same number through a server.
        """
        scores = iter(self.model.score(list(context), [ids for ids in asked if ids]))
        told = (next(scores) if ids else None for ids in asked)
        return [(0.0, True) if score is None else (float(sum(score.logprobs)), score.greedy) for score in told]

    def _cut(self, context: list[int], after: list[int]) -> tuple[list[int], list[int]]:
        """Both without what does not fit, at the left; the last id is predicted, and not read."""
        room = self.model.n_context + 1 - len(after)
        if room < 1:
            wrong = f"a continuation of {len(after)} tokens does not fit the context of {self.model.n_context}"
            raise InputError(wrong)
        return context[-room:], after

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002, FBT001, FBT002 - the harness's
        """log p of whole texts, in windows of the model's context."""
        out = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False), prefix_token=self.prefix_token_id,
                max_seq_len=self.model.n_context, context_len=1,
            )  # fmt: skip
            asked = [(("", ""), *make_disjoint_window(window)) for window in windows]
            total = sum(log for key, context, after in asked for log, _ in self._likelihoods(context, [after]))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            out.append(total)
        return out

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002, FBT001, FBT002 - the harness's
        """Answers of prompts, each up to one of its `until` texts; those of the same parameters are made together."""
        out: list[str] = []
        for _, same in groupby(requests, lambda request: repr(request.args[1])):
            group = list(same)
            for request, answer in zip(group, self._answers([r.args[0] for r in group], group[0].args[1]), strict=True):
                self.cache_hook.add_partial("generate_until", request.args, answer.text)
                out.append(answer.text)
        return out

    def _answers(self, prompts: Sequence[str], wanted: dict[str, Any]) -> list[Generation]:
        given: Any = dict(wanted)  # generate_all checks names and values
        until = given.pop("until", None) or []
        stops = [s for s in ([until] if isinstance(until, str) else until) if s]
        most = given.pop("max_gen_toks", given.pop("max_new_tokens", MAX_GEN_TOKS))
        sampled = given.pop("do_sample", given.get("temperature", 0) > 0)
        if not sampled:  # tasks write temperature 0 next to it
            for name in ("temperature", "top_p", "top_k", "min_p"):
                given.pop(name, None)
        room = self.model.n_context - most
        if room < 1:
            wrong = f"max_gen_toks={most}: leaves nothing of the context of {self.model.n_context} for a prompt"
            raise InputError(wrong)
        ids = [(self.tok_encode(prompt) or [self.prefix_token_id])[-room:] for prompt in prompts]
        given |= {"max_new_tokens": most, "do_sample": bool(sampled)} | ({"stop_strings": stops} if stops else {})
        return self.model.generate_all(ids, **given)
