"""Families as data: each module holds some families' tables and short functions; `FAMILIES` finds one by `model_type`.

A module is imported when one of its families is first asked for: a model is of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from ...errors import HALF_IMPORTED
from .around import left_out, taken_out
from .base import Family, Part, Resolved, layer_type, piece_name, resolve_with, shared_numbers
from .heads import as_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FAMILIES",
    "KINDS",
    "OTHERS",
    "Family",
    "Part",
    "Resolved",
    "as_classifier",
    "layer_type",
    "left_out",
    "piece_name",
    "resolve_with",
    "shared_numbers",
    "taken_out",
]

#: Modules of this folder, and the `model_type` of each family in them.
_DECODERS = {
    "llama": ("llama",),
    "mistral": ("mistral",),
    "qwen2": ("qwen2",),
    "qwen3": ("qwen3",),
    "gpt2": ("gpt2",),
    "nemotron": ("nemotron-nas",),
    "llama_kin": ("granite", "smollm3", "seed_oss", "helium", "ernie4_5", "arcee", "ministral", "exaone4"),
    "hunyuan": ("hunyuan_v1_dense",),
    "gemma": ("gemma",),
    "gemma2": ("gemma2", "gemma3_text"),
    "glm": ("glm", "glm4"),
    "olmo": ("olmo", "olmo2", "olmo3"),
    "stablelm": ("stablelm",),
    "phi": ("phi", "phi3"),
    "gpt_neox": ("gpt_neox",),
    "starcoder2": ("starcoder2",),
    "cohere": ("cohere", "cohere2"),
    "opt": ("opt",),
    "gpt_kin": ("gptj", "gpt_neo", "gpt_bigcode"),
    "bloom": ("bloom",),
    "mpt": ("mpt",),
    "falcon": ("falcon",),
    "apertus": ("apertus",),
    "xglm": ("xglm",),
    "moe": ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe"),
}
_ENCODERS = {
    "bert": ("bert", "roberta", "xlm-roberta", "camembert", "electra"),
    "albert": ("albert",),
    "distilbert": ("distilbert",),
    "mpnet": ("mpnet",),
    "deberta": ("deberta-v2",),
    "modernbert": ("modernbert",),
    "nomic_bert": ("nomic_bert",),
    "eurobert": ("eurobert",),
}
_SEQ2SEQ = {
    "t5": ("t5", "mt5", "umt5"),
    "bart": ("bart", "mbart", "marian", "pegasus", "blenderbot", "blenderbot-small", "m2m_100"),
}


class _Families(Mapping[str, Family]):
    """From a `model_type` to its family."""

    def __init__(self, *tables: Mapping[str, tuple[str, ...]]) -> None:
        """`tables`: as above."""
        self._modules = {name: module for table in tables for module, names in table.items() for name in names}
        self._found = dict[str, Family]()

    def __getitem__(self, name: str) -> Family:
        """Errors: KeyError: there is no such family. ImportError: this thread is importing its module already."""
        if name not in self._found:
            module = import_module(f".{self._modules[name]}", __name__)
            self._found |= {f.name: f for f in vars(module).values() if isinstance(f, Family)}
            if name not in self._found:  # asked for in the middle of that import, by a signal handler for one
                msg = f"cannot find {name!r} in {HALF_IMPORTED} {module.__name__!r}"
                raise ImportError(msg)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


FAMILIES = _Families(_DECODERS, _ENCODERS, _SEQ2SEQ)
#: Names by kind, for who asks what is read.
KINDS = {
    "decoders": tuple(_Families(_DECODERS)),
    "encoders": tuple(_Families(_ENCODERS)),
    "encoder-decoders": tuple(_Families(_SEQ2SEQ)),
}
#: What is none of these: `model_type` -> what it is.
OTHERS = {
    "deberta": "DeBERTa's first version, whose queries, keys and values share a matrix (deberta-v2 is of 2 and 3)",
    **dict.fromkeys(
        ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"),
        "a state-space or recurrent model; miaotui reads Transformers alone",
    ),
    **dict.fromkeys(
        (
            *("jamba", "bamba", "zamba", "zamba2", "granitemoehybrid", "falcon_h1", "lfm2", "lfm2_moe", "nemotron_h"),
            *(
                "qwen3_next",
                "qwen3_5",
                "qwen3_5_text",
                "qwen3_5_moe",
                "qwen3_5_moe_text",
                "recurrent_gemma",
                "minimax",
                "kimi_linear",
                "olmo_hybrid",
            ),
        ),
        "a hybrid of attention and a recurrence; miaotui reads Transformers alone",
    ),
}
