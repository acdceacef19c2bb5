"""Families as data: each module holds one family's tables and a short function; `FAMILIES` finds it by `model_type`."""

from __future__ import annotations

from .base import Family, Part, Resolved, piece_name, resolve_with
from .bert import BERT, ROBERTA
from .gpt2 import GPT2
from .llama import LLAMA
from .mistral import MISTRAL
from .nemotron import NEMOTRON
from .qwen2 import QWEN2
from .qwen3 import QWEN3

__all__ = ["FAMILIES", "Family", "Part", "Resolved", "piece_name", "resolve_with"]

FAMILIES = {family.name: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, NEMOTRON, BERT, ROBERTA)}
