"""Calls of functions in a model's answer: a module for each way in which models write them."""

from __future__ import annotations

from .bare_json import LLAMA3_JSON
from .choice import Function, FunctionError, Held, forced, guarded
from .deltas import Call, Content, Delta, Reasoning
from .detect import FORMATS, PLAIN, format_named, format_of, thinks_at_end, without_calls
from .hermes import HERMES
from .marked import MISTRAL
from .parser import Format, Parser
from .pythonic import PYTHONIC
from .tagged import QWEN3_CODER

__all__ = [
    "FORMATS", "HERMES", "LLAMA3_JSON", "MISTRAL", "PLAIN", "PYTHONIC", "QWEN3_CODER", "Call", "Content", "Delta",
    "Format", "Function", "FunctionError", "Held", "Parser", "Reasoning", "forced", "format_named", "format_of",
    "guarded", "thinks_at_end", "without_calls",
]  # fmt: skip
