"""Families as data: each module holds one family's tables and a short function; `FAMILIES` finds it by `model_type`."""

from __future__ import annotations

from .albert import ALBERT
from .base import Family, Part, Resolved, piece_name, resolve_with, shared_numbers
from .bert import BERT, CAMEMBERT, ELECTRA, ROBERTA, XLM_ROBERTA
from .distilbert import DISTILBERT
from .gpt2 import GPT2
from .llama import LLAMA
from .mistral import MISTRAL
from .nemotron import NEMOTRON
from .qwen2 import QWEN2
from .qwen3 import QWEN3

__all__ = ["FAMILIES", "Family", "Part", "Resolved", "piece_name", "resolve_with", "shared_numbers"]

_DECODERS = (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, NEMOTRON)
_ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, ALBERT, DISTILBERT)
FAMILIES = {family.name: family for family in (*_DECODERS, *_ENCODERS)}
