"""Families as data: each module holds one family's tables and a short function; `FAMILIES` finds it by `model_type`."""

from __future__ import annotations

from .albert import ALBERT
from .base import Family, Part, Resolved, piece_name, resolve_with, shared_numbers
from .bert import BERT, CAMEMBERT, ELECTRA, ROBERTA, XLM_ROBERTA
from .distilbert import DISTILBERT
from .eurobert import EUROBERT
from .gpt2 import GPT2
from .llama import LLAMA
from .mistral import MISTRAL
from .modernbert import MODERNBERT
from .mpnet import MPNET
from .mpt import MPT
from .nemotron import NEMOTRON
from .nomic_bert import NOMIC_BERT
from .qwen2 import QWEN2
from .qwen3 import QWEN3
from .t5 import MT5, T5, UMT5

__all__ = ["FAMILIES", "Family", "Part", "Resolved", "piece_name", "resolve_with", "shared_numbers"]

_DECODERS = (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, NEMOTRON, MPT)
_ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, ALBERT, DISTILBERT, MPNET)
_ROTARY = (MODERNBERT, NOMIC_BERT, EUROBERT)
_T5 = (T5, MT5, UMT5)
FAMILIES = {family.name: family for family in (*_DECODERS, *_ENCODERS, *_ROTARY, *_T5)}
