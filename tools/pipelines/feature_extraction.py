"""feature-extraction: what leaves the last layer, for every token of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, shown
from ...runtime.encoding import encoded
from ...runtime.parameters import switch
from .base import EncoderPipeline, Prepared
from .truncation import TOKENIZER, cutting, tokenizer_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ...runtime.encoding import Whole
    from .base import Options, Rows

__all__ = ["FeatureExtraction"]


class FeatureExtraction(EncoderPipeline):
    """`pipe(text)`: numbers as lists, [1][tokens][d_model]; with `return_tensors` a NumPy array.

    Of any model: a head is not used, and of an encoder-decoder the encoder is read. `truncation`: cut what is too long;
    `tokenize_kwargs`: what else the tokenizer is told.
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "truncation": None, "tokenize_kwargs": None, "return_tensors": False,
    }  # fmt: skip

    def check(self) -> None:
        """Any model with a tokenizer. Errors: `TokenizerError`."""
        self.model.tokenizer  # noqa: B018 - reads it

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`."""
        options = super().options(given)
        more = tokenizer_options("tokenize_kwargs", options["tokenize_kwargs"])
        if options["truncation"] is not None:
            if "truncation" in more:
                msg = "truncation: given by name and in tokenize_kwargs too; give it once"
                raise InputError(msg)
            more["truncation"] = options["truncation"]
        tensors = options["return_tensors"]  # "np", "pt" and the like: true, as in transformers
        tensors = (
            bool(tensors) if isinstance(tensors, str) else tensors is not None and switch("return_tensors", tensors)
        )
        return options | {"return_tensors": tensors, "tokenizing": TOKENIZER | more}

    def prepare(self, item: object, options: Options) -> Prepared:
        """As `EncoderPipeline.prepare`."""
        if not isinstance(item, str):
            msg = f"{self.task}: {shown(item)} found, expected a text"
            raise InputError(msg)
        tokenizing = options["tokenizing"]
        [pieces] = self.model.tokenizer.windows(
            item, cutting=cutting(self, tokenizing), add_special_tokens=bool(tokenizing["add_special_tokens"])
        )
        return Prepared([self.whole(pieces)])

    def rows(self, wholes: Iterator[Whole]) -> Iterator[Rows]:
        """The rows of each text's tokens."""
        if self.model.session.program.encoding is None:
            name_of = self.model.session.adapters.name_of
            return (self.model.hidden(whole.ids, adapter=name_of(whole.adapter)) for whole in wholes)
        return encoded(self.model.session, wholes, np.copy)

    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> Any:  # noqa: ANN401, ARG002 - lists, or an array
        """As `EncoderPipeline.finish`."""
        return rows[0][None] if options["return_tensors"] else [rows[0].tolist()]
