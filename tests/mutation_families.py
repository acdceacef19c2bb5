"""Directories of every family as a mutation has them: of `mutation_kinds.py`.

Configs are small ones of the families' own keys; tensors are those that our loader asks for, as nothing is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from checkpoints import FAMILIES as OLD
from checkpoints import write_safetensors
from miaotui import load
from miaotui.loader.config import resolve_config
from miaotui.loader.families import FAMILIES
from miaotui.loader.model_tensors import ModelTensors
from miaotui.loader.roles import expert_key, expert_of, role_of
from miaotui.loader.sizes import largest
from mutation_tokenizers import tokenizer_makes
from mutations import dump, mutated_json, words_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from mutations import Case, Draw

__all__ = ["families", "sentences", "seq2seq", "small_config"]

#: Sizes of every family, by our names; what a family says in other words is next to its name.
SIZES = {"n_layers": 2, "d_model": 12, "n_heads": 3, "n_kv_heads": 3, "d_head": 4, "d_ff": 8, "n_vocab": 263}
SIZES |= {"n_experts": 3, "d_dense": 8}
HALF = {"partial_rotary_factor": 0.5}
BART = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3, "decoder_attention_heads": 3}
BART |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "decoder_start_token_id": 2, "pad_token_id": 1}
OTHERS: dict[str, dict[str, Any]] = {
    "nemotron-nas": {"block_configs": [{"attention": {"n_heads_in_group": 3}, "ffn": {"ffn_mult": 5.0}}] * 2},
    **dict.fromkeys(("stablelm", "phi"), HALF),
    "gpt_neox": {"rotary_pct": 0.5},
    "apertus": {"hidden_act": "xielu"},  # which our table says without a name
    **{family: {"num_experts_per_tok": 2} for family in ("mixtral", "olmoe", "qwen3_moe")},
    "qwen2_moe": {"num_experts_per_tok": 2, "shared_expert_intermediate_size": 8},
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "blenderbot", "blenderbot-small", "m2m_100"), BART),
    "gptj": {"rotary_dim": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}


def small_config(family: str) -> dict[str, Any]:
    """Every key of the family; the sizes are small."""
    table = FAMILIES[family]
    keys = {name: key.default for name, key in table.keys.items()}
    keys |= {key: SIZES[ours] for ours, key in table.spelling.items() if ours in SIZES}
    keys |= {name: list(value) for name, value in keys.items() if isinstance(value, tuple)}
    keys |= {name: "gelu_new" for name, value in keys.items() if value == "gelu_tanh"}
    return {"model_type": family} | keys | OTHERS.get(family, {})


def _experts(stack: ModelTensors | None, role: str) -> list[str]:
    """A role, or of experts one for each that the config names: a file without tensors shows one."""
    if stack is None or expert_of(role) is None:
        return [role]
    return [expert_key(role_of(role), e) for e in range(largest(stack.config).n_experts)]


def write_fitting(directory: Path, config: dict[str, Any]) -> None:
    """config.json, and random tensors that fit it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(dump(config))
    rng = np.random.default_rng(0)
    some = ModelTensors(directory, {}, resolve_config(config, str(directory)))
    shapes = dict[str, tuple[int, ...]]()
    for stack in (some, some.encoder):
        tables = [] if stack is None else [(0, stack.parts), *((i, stack.layer) for i in range(stack.config.n_layers))]
        for at, table in tables:
            for role, part in table.items():
                for key in _experts(stack, role):
                    if stack is not None and stack.has(key, at):
                        piece = stack.part(key, part, at)
                        shapes[piece.name] = stack._stored_shape(key, piece, at)
    tensors = {name: 0.3 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    write_safetensors(directory / "model.safetensors", tensors)


def families(folder: Path, read: Callable[[Path], object]) -> Draw:
    """config.json of every family that `mutation_kinds.configs` lacks, next to tensors that fit the good one."""
    bases = {family: small_config(family) for family in FAMILIES if family not in OLD}
    for family, config in bases.items():
        write_fitting(folder / family, config)
    words = words_of(*bases.values(), ["architectures", "id2label", "0", "PAD", "ForMaskedLM", "rope_parameters"])

    def draw(rng: Random) -> Case:
        family = rng.choice(list(bases))
        (folder / family / "config.json").write_bytes(mutated_json(rng, bases[family], words))
        return lambda: read(folder / family), (str(folder / family), family)

    return draw


#: What lies next to an encoder that gives vectors of texts.
SENTENCE = {
    "modules.json": [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 12, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": True, "pooling_mode_lasttoken": False, "include_prompt": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {"query": "a b ", "document": ""}, "default_prompt_name": "query", "similarity_fn_name": "cosine",
        "__version__": {"sentence_transformers": "5.0.0"},
    },
}  # fmt: skip


def sentences(folder: Path) -> Draw:
    """A BERT with a head, its tokenizer, and what sentence-transformers writes: texts to vectors, ids to scores."""
    directory = folder / "sentences"
    config = small_config("bert") | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "a", "1": "b"},
    }
    write_fitting(directory, config)
    (directory / "1_Pooling").mkdir()
    (directory / "tokenizer.json").write_text(dump(tokenizer_makes()["wordpiece"]))
    bases: dict[str, Any] = {"config.json": config, **SENTENCE}
    words = words_of(*bases.values(), ["../", "3_Dense", "Dense", "WordEmbeddings", "ForTokenClassification"])
    _vectors(directory)  # what compiles does so before anything is timed

    def draw(rng: Random) -> Case:
        one = rng.choice(list(bases))
        files = [name for name in bases if name in ("config.json", one) or rng.random() < 0.9]
        for name, base in bases.items():
            file = directory / name
            file.unlink(missing_ok=True)
            if name in files:
                file.write_bytes(mutated_json(rng, base, words) if name == one else dump(base).encode())
        return lambda: _vectors(directory), (f"{directory}/", "prompt_name", "bert")

    return draw


def _vectors(directory: Path) -> None:
    with load(directory, threads=1, max_context=32) as model:
        if model.config.head is not None:
            assert np.isfinite(model.logits([1, 2, 3])).all()
        rows = np.asarray(model.encode(["a", "b a " * 40, ""]))
        assert rows.shape[0] == 3
        assert np.isfinite(rows).all()


def seq2seq(folder: Path) -> Draw:
    """A T5, a BART and an M2M100 with generation_config.json: greedy answers, and beams."""
    generation = {"decoder_start_token_id": 2, "forced_bos_token_id": 3, "forced_eos_token_id": [1], "eos_token_id": 1}
    generation |= {"bad_words_ids": [[5], [6, 7]], "num_beams": 2, "early_stopping": True, "max_length": 8}
    bases = {family: small_config(family) for family in ("t5", "bart", "m2m_100")}
    for family, config in bases.items():
        write_fitting(folder / family, config)
        _answers(folder / family)
    words = words_of(generation, *bases.values(), ["T5EncoderModel", "no_repeat_ngram_size"])

    def draw(rng: Random) -> Case:
        family = rng.choice(list(bases))
        two = {"config.json": bases[family], "generation_config.json": generation}
        one = rng.choice(list(two))
        for name, base in two.items():
            good = dump(base).encode()
            (folder / family / name).write_bytes(mutated_json(rng, base, words) if name == one else good)
        return lambda: _answers(folder / family), (f"{folder / family}/", str(folder / family), family)

    return draw


def _answers(directory: Path) -> None:
    with load(directory, threads=1, max_context=32) as model:
        if model.config.decoder is None:
            assert np.isfinite(model.hidden([1, 2, 3])).all()
            return
        for beams in (1, 2):
            assert len(model.generate([1, 2, 3], max_new_tokens=3, num_beams=beams).ids) <= 3
