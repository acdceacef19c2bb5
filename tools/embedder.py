"""A model in the place of sentence-transformers' `SentenceTransformer`: its calls, its parameters, its numbers.

For programs that are written for that class: MTEB, LangChain, LlamaIndex and others (docs/embeddings.md). What has no
meaning here is accepted where it changes no number (`batch_size`: texts are packed without padding), and otherwise
refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import BackendError, InputError, is_iterable, shown
from ..runtime.parameters import one_of, switch, whole_number
from ..runtime.spec import SIMILARITIES
from ..runtime.tasks.precision import PRECISIONS, rounded
from ..runtime.tasks.similarity import pairwise, similarity
from .held import Holder, held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Unpack

    from numpy.typing import ArrayLike, NDArray

    from ..load_options import LoadKwargs
    from ..loader.text.tokenizer import Tokenizer
    from ..model import Model
    from ..runtime.spec import Similarity
    from ..runtime.tasks.precision import Precision

    Texts = str | Iterable[str]

__all__ = ["SentenceEncoder", "as_tensors", "listed", "refuse_others", "tensor"]

#: Prompts that are there in any case; a directory may say more of them.
NO_PROMPTS = {"query": "", "document": ""}
#: The names of a document's prompt, the first that there is.
DOCUMENT = ("document", "passage", "corpus")


class SentenceEncoder(Holder):
    """Texts to vectors, with the interface of `sentence_transformers.SentenceTransformer` (6.2)."""

    def __init__(
        self,
        model_name_or_path: str | Path | Model,
        *,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: Similarity | None = None,
        truncate_dim: int | None = None,
        **options: Unpack[LoadKwargs],
    ) -> None:
        """A directory, a hub name (with the options of `load`), or a model that is loaded, which `close` leaves open.

        `prompts` and the others stand in place of what the directory says. Errors: `InputError`, and `load`'s.
        """
        model, owned = held(model_name_or_path, **options)
        super().__init__(model, owned=owned)
        try:
            self.vectors = copy(self.model.vectors)
            said = self.vectors.how
            self.prompts = {**NO_PROMPTS, **said.prompts, **_named(prompts)}
            self.default_prompt_name = said.default_prompt if default_prompt_name is None else default_prompt_name
            self.truncate_dim = truncate_dim
            self._similarity = said.similarity
            if similarity_fn_name is not None:
                self.similarity_fn_name = similarity_fn_name
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        if self.default_prompt_name is not None:
            self._known("default_prompt_name", self.default_prompt_name)
        self._width(self.truncate_dim)

    def encode(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding", "token_embeddings"] = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        **others: object,
    ) -> Any:
        """A vector for each text: float32 [texts, d], of one text [d].

        `precision`: "int8" and "uint8" in 256 steps of each dimension's range in these texts, "binary" and "ubinary" a
        bit for each dimension. `output_value="token_embeddings"`: a list of [tokens, d_model]. With
        `convert_to_tensor`, or without `convert_to_numpy`, torch's tensors, where torch is installed. `batch_size` and
        `chunk_size` change nothing. Errors: `InputError`, `TokenizerError`.
        """
        texts = others.pop("sentences", None) if inputs is None else inputs  # its older name
        others.pop("task", None)  # which of a Router's modules: there are none
        refuse_others("SentenceEncoder", self.device, batch_size, {"pool": pool, "device": device, **others})
        one_of("output_value", output_value, ("sentence_embedding", "token_embeddings"))
        one_of("precision", precision, PRECISIONS)
        del chunk_size
        one, before = isinstance(texts, str), self._prompt(prompt, prompt_name)
        every = [texts] if one else listed(texts)
        source = _barred(every) if show_progress_bar is True and every else every
        tensors = as_tensors(convert_to_tensor, convert_to_numpy)
        if output_value == "token_embeddings":
            rows = [tensor(row) if tensors else row for row in self.vectors.tokens(source, before)]
            return rows[0] if one else rows
        norm = True if switch("normalize_embeddings", normalize_embeddings) else None
        got = self.vectors.of(source, prompt=before, truncate_dim=self._width(truncate_dim), normalize=norm)
        vectors = rounded(got if isinstance(got, np.ndarray) else np.stack(list(got)), precision)
        result = tensor(vectors) if tensors else vectors
        return result[0] if one else list(result) if tensors and not convert_to_tensor else result

    def encode_query(
        self, inputs: Texts, prompt_name: str | None = None, prompt: str | None = None, **more: Any
    ) -> Any:
        """As `encode`, with the prompt "query" where none is named."""
        if prompt_name is None and prompt is None:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, **more)

    def encode_document(
        self, inputs: Texts, prompt_name: str | None = None, prompt: str | None = None, **more: Any
    ) -> Any:
        """As `encode`; where no prompt is named, with "document", "passage" or "corpus", the first that is there."""
        if prompt_name is None and prompt is None:
            prompt_name = next(name for name in DOCUMENT if name in self.prompts)
        return self.encode(inputs, prompt_name, prompt, **more)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """[n, d], [m, d] -> [n, m] by `similarity_fn_name`. NumPy's, where sentence-transformers gives a tensor."""
        return similarity(embeddings1, embeddings2, self._compares())

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """[n, d], [n, d] -> [n]: each with its own."""
        return pairwise(embeddings1, embeddings2, self._compares())

    def _compares(self) -> Similarity:
        """Errors: `InputError` where the directory names a way of its own, such as that of several vectors a text."""
        name = self._similarity
        known = next((known for known in SIMILARITIES if known == name), None)
        if known is None:
            msg = (
                f"similarity_fn_name={shown(name)}, as config_sentence_transformers.json says, is not computed; set it "
                f"to one of {', '.join(SIMILARITIES)}"
            )
            raise InputError(msg)
        return known

    @property
    def similarity_fn_name(self) -> str:
        """How vectors are compared: "cosine", "dot", "euclidean" or "manhattan", or what else the directory says."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str) -> None:
        self._similarity = one_of("similarity_fn_name", value, SIMILARITIES)

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text, its frame among them; what is longer is cut."""
        return self.vectors.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.vectors.max_tokens = whole_number("max_seq_length", value, most=self.model.n_context)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.model.tokenizer

    def get_embedding_dimension(self) -> int:
        """Numbers of a vector."""
        return self._width(None)

    get_sentence_embedding_dimension = get_embedding_dimension

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """What stands before every text; `prompt` wins."""
        if prompt is not None and not isinstance(prompt, str):
            msg = f"prompt={shown(prompt)}: expected a text"
            raise InputError(msg)
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        return "" if name is None else self._known("prompt_name", name)

    def _known(self, option: str, name: object) -> str:
        """The prompt of this name."""
        if not isinstance(name, str) or name not in self.prompts:
            msg = f"{option}={shown(name)}: expected one of {shown(list(self.prompts))}"
            raise InputError(msg)
        return self.prompts[name]

    def _width(self, asked: int | None) -> int:
        """Dimensions that are kept: as many as there are, where more are asked for."""
        wanted = self.truncate_dim if asked is None else asked
        if wanted is None:
            return self.vectors.width
        return min(whole_number("truncate_dim", wanted, of="dimensions"), self.vectors.how.width)


def _named(prompts: object) -> Mapping[str, str]:
    """A caller's prompts. Errors: `InputError`."""
    given = {} if prompts is None else prompts
    if not isinstance(given, Mapping) or not all(isinstance(each, str) for pair in given.items() for each in pair):
        msg = f"prompts={shown(prompts)}: expected texts by name"
        raise InputError(msg)
    return given


def refuse_others(name: str, here: str, batch_size: object, others: Mapping[str, Any]) -> None:
    """Errors: `InputError`, for a batch of nothing, and for what is given and not done here."""
    whole_number("batch_size", batch_size)
    for other, value in others.items():
        named = "" if isinstance(value, int) else str(value)  # torch.device too; a large number has no text
        same = other == "device" and named in (here, here.partition(":")[0])
        if value is not None and not same:
            where = f"; the model computes on {here}" if other == "device" else ""
            msg = f"{other}={shown(value, 80)}: {name} has no such parameter{where}; leave it out"
            raise InputError(msg)


def as_tensors(convert_to_tensor: object, convert_to_numpy: object) -> bool:
    """Whether torch's tensors are asked for. Errors: `InputError`."""
    both = switch("convert_to_tensor", convert_to_tensor), switch("convert_to_numpy", convert_to_numpy)
    return both[0] or not both[1]


def listed(texts: object) -> list[Any]:
    """What is to be encoded, as a list. `InputError`."""
    if not is_iterable(texts) or isinstance(texts, bytes | Mapping):
        msg = f"inputs: {shown(texts)} found, expected a text, or several"
        raise InputError(msg)
    return [str(text) if isinstance(text, np.str_) else text for text in texts]


def _barred(texts: list[Any]) -> Iterator[Any]:
    """The same, with tqdm's bar on a terminal, where tqdm is installed (the extra `progress`)."""
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        return iter(texts)
    return iter(tqdm(texts, desc="Texts", disable=None))


def tensor(array: NDArray[Any]) -> Any:
    """The same as torch's tensor. `BackendError` without torch."""
    try:
        torch: Any = import_module("torch")
    except ImportError as e:
        msg = "convert_to_tensor, or convert_to_numpy=False: torch's tensors need torch: pip install torch"
        raise BackendError(msg) from e
    return torch.from_numpy(np.ascontiguousarray(array))
