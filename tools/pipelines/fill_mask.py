"""fill-mask: what may stand in the place of a text's mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, TokenizerError, shown
from ...runtime.encoding import Whole
from ...runtime.parameters import whole_number
from ...runtime.tasks.masks import likeliest
from ..notes import warn
from .base import EncoderPipeline, Prepared
from .truncation import TOKENIZER, cutting, tokenizer_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Options, Rows

__all__ = ["FillMask"]


class FillMask(EncoderPipeline):
    """`pipe("It is a [MASK].")`: `[{"score", "token", "token_str", "sequence"}]`, the likeliest first.

    Several masks give a list of such lists, each mask for itself. `top_k`: how many; `targets`: tokens that alone are
    looked at (a text that is no token stands for its first one, with a warning). `pipe.mask_token` is the mask's text.
    """

    parameters: ClassVar[Mapping[str, object]] = {"top_k": 5, "targets": None, "tokenizer_kwargs": None}
    heads = ("masked_lm",)
    needs = "an encoder that fills masks (...ForMaskedLM)"
    shorter = 'give a shorter text, or tokenizer_kwargs={"truncation": True}'

    def check(self) -> None:
        """As `EncoderPipeline.check`; the tokenizer has a mask."""
        super().check()
        if self.model.tokenizer.mask_id is None:
            msg = (
                f"{self.task}: the tokenizer names no mask_token (tokenizer_config.json), so that no text can have one"
            )
            raise TokenizerError(msg)

    @property
    def mask_token(self) -> str:
        """What stands for the mask in a text."""
        return self.model.tokenizer.id_to_token(self.model.tokenizer.mask_id or 0) or ""

    def __call__(self, inputs: object, **parameters: object) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As `Pipeline.__call__`. One item in a list gives what the item gives, as transformers does."""
        result = super().__call__(inputs, **parameters)
        return result[0] if isinstance(inputs, list | tuple) and len(inputs) == 1 else result

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; what is no parameter's value is an `InputError`."""
        options = super().options({key: value for key, value in given.items() if value is not None})
        whole_number("top_k", options["top_k"], of="results")
        tokenizing = tokenizer_options("tokenizer_kwargs", options["tokenizer_kwargs"])
        targets = given.get("targets")
        ids = options["targets"] if targets is None else self._ids(targets)
        return options | {"targets": ids, "tokenizing": TOKENIZER | tokenizing}

    def _ids(self, targets: object) -> list[int]:
        """The ids of tokens by their text."""
        texts = [targets] if isinstance(targets, str) else targets
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
            msg = f"targets={shown(targets)}: expected a token's text, or a list of them"
            raise InputError(msg)
        tokenizer, ids = self.model.tokenizer, list[int]()
        for text in texts:
            token = tokenizer.token_to_id(text)
            if token is None:
                pieces = tokenizer.encode(text, add_special_tokens=False)
                what = f"{tokenizer.id_to_token(pieces[0])!r} stands for it" if pieces else "it is left out"
                warn(f"targets: {text!r} is no token of this model; {what}")
                token = pieces[0] if pieces else None
            if token is not None:
                ids.append(token)
        if not ids:
            msg = f"targets={shown(targets)}: none of them has a token"
            raise InputError(msg)
        return sorted(set(ids))

    def prepare(self, item: object, options: Options) -> Prepared:
        """As `EncoderPipeline.prepare`; of the masks alone the head's results are asked for."""
        if not isinstance(item, str):
            msg = f"{self.task}: {shown(item)} found, expected a text with {self.mask_token} in it"
            raise InputError(msg)
        tokenizing = options["tokenizing"]
        [pieces] = self.model.tokenizer.windows(
            item, cutting=cutting(self, tokenizing), add_special_tokens=bool(tokenizing["add_special_tokens"])
        )
        masks = [n for n, i in enumerate(pieces.ids) if i == self.model.tokenizer.mask_id]
        if not masks:
            msg = f"{self.task}: no mask ({self.mask_token}) in the text {shown(item)}"
            raise InputError(msg)
        whole = self.whole(pieces)
        return Prepared([Whole(whole.ids, whole.types, masks)], masks)

    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> list[Any]:
        """As `EncoderPipeline.finish`."""
        tokenizer, ids, masks = self.model.tokenizer, np.array(prepared.wholes[0].ids), prepared.about
        out = []
        for at, best in zip(masks, likeliest(rows[0], options["top_k"], options["targets"]), strict=True):
            row = []
            for token, score in best:
                ids_then = ids.copy()
                ids_then[at] = token
                kept = [int(i) for i in ids_then if i != tokenizer.pad_id]
                text = tokenizer.decode(kept, skip_special_tokens=len(masks) == 1)  # of several, the others stay
                spelled = tokenizer.decode([token], skip_special_tokens=False)
                row.append({"score": score, "token": token, "token_str": spelled, "sequence": text})
            out.append(row)
        return out[0] if len(out) == 1 else out
