"""Families as data: each module holds one family's tables and a short function; `FAMILIES` finds it by `model_type`."""

from __future__ import annotations

from .albert import ALBERT
from .apertus import APERTUS
from .around import left_out, taken_out
from .bart import BART, BLENDERBOT, BLENDERBOT_SMALL, M2M100, MARIAN, MBART, PEGASUS
from .base import Family, Part, Resolved, layer_type, piece_name, resolve_with, shared_numbers
from .bert import BERT, CAMEMBERT, ELECTRA, ROBERTA, XLM_ROBERTA
from .bloom import BLOOM
from .cohere import COHERE, COHERE2
from .deberta import DEBERTA_V2
from .distilbert import DISTILBERT
from .eurobert import EUROBERT
from .falcon import FALCON
from .gemma import GEMMA
from .gemma2 import GEMMA2, GEMMA3_TEXT
from .glm import GLM, GLM4
from .gpt2 import GPT2
from .gpt_kin import GPT_BIGCODE, GPT_NEO, GPTJ
from .gpt_neox import GPT_NEOX
from .heads import as_classifier
from .hunyuan import HUNYUAN
from .llama import LLAMA
from .llama_kin import ARCEE, ERNIE, EXAONE4, GRANITE, HELIUM, MINISTRAL, SEED_OSS, SMOLLM3
from .mistral import MISTRAL
from .modernbert import MODERNBERT
from .moe import MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE
from .mpnet import MPNET
from .mpt import MPT
from .nemotron import NEMOTRON
from .nomic_bert import NOMIC_BERT
from .olmo import OLMO, OLMO2, OLMO3
from .opt import OPT
from .phi import PHI, PHI3
from .qwen2 import QWEN2
from .qwen3 import QWEN3
from .stablelm import STABLELM
from .starcoder2 import STARCODER2
from .t5 import MT5, T5, UMT5
from .xglm import XGLM

__all__ = [
    "AROUND",
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

_DECODERS = (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, NEMOTRON)
_ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, ALBERT, DISTILBERT, MPNET, DEBERTA_V2)
_LLAMAS = (GRANITE, SMOLLM3, SEED_OSS, HELIUM, ERNIE, ARCEE, MINISTRAL, HUNYUAN, EXAONE4, GEMMA, GLM, GLM4, PHI3)
_OTHERS = (OLMO, OLMO2, OLMO3, STABLELM, PHI, GPT_NEOX, STARCODER2, COHERE, COHERE2, OPT, GPTJ, GPT_NEO, GPT_BIGCODE)
_SCORED = (GEMMA2, GEMMA3_TEXT, BLOOM, MPT, FALCON)
_LATER = (APERTUS, XGLM)
_EXPERTS = (MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE)
_ROTARY = (MODERNBERT, NOMIC_BERT, EUROBERT)
_T5 = (T5, MT5, UMT5)
_BARTS = (BART, MBART, MARIAN, PEGASUS, BLENDERBOT, BLENDERBOT_SMALL, M2M100)
#: By kind, for who asks what is read.
KINDS = {
    "decoders": (*_DECODERS, *_LLAMAS, *_OTHERS, *_SCORED, *_LATER, *_EXPERTS),
    "encoders": (*_ENCODERS, *_ROTARY),
    "encoder-decoders": (*_T5, *_BARTS),
}
FAMILIES = {family.name: family for families in KINDS.values() for family in families}
#: Checkpoints that hold a family's model among others, by the whole's `model_type`.
AROUND = {family.around.name: family for family in FAMILIES.values() if family.around is not None}
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
