"""An unpruned BF16 checkpoint of any family stays in the file: what loading allocates holds vectors only."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import pytest
import test_decoders
import test_encoders
import test_seq2seq
from checkpoints import DECODERS, ENCODERS, SEQ2SEQ, Drawn, small, write_checkpoint
from checkpoints import FAMILIES as WRITTEN
from miaotui.limits import Request
from miaotui.loader.families import FAMILIES
from miaotui.loader.open import open_model
from miaotui.prepare import prepare

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

#: Stored [in, out]: turned while loading.
TURNED = ("gpt2",)
#: Norms have no weights in the file: all of them read one vector of ones.
WITHOUT_GAINS = ("olmo",)
SIZES: dict[str, Any] = {
    "vocab_size": 53, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 64, "embedding_size": 16, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 4, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 24,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0, "type_vocab_size": 2,
}  # fmt: skip


def of_transformers(family: str, directory: Path, made: Any) -> None:
    """A small BF16 model of a family, written by transformers."""
    kind = transformers.CONFIG_MAPPING[family]
    known = {*signature(kind).parameters, *kind.attribute_map}
    made(kind(**{name: value for name, value in SIZES.items() if name in known}), directory, dtype=torch.bfloat16)


def written(family: str, directory: Path) -> None:
    if family in DECODERS:
        test_decoders.made(test_decoders.small(family), directory, dtype=torch.bfloat16)
    elif family in ENCODERS:
        of_transformers(family, directory, test_encoders.made)
    elif family in SEQ2SEQ:
        of_transformers(family, directory, test_seq2seq.made)
    else:  # a heterogeneous Llama, too
        drawn = small("llama" if family == "nemotron-nas" else family)
        write_checkpoint(directory, Drawn(drawn.config, "BF16"))


def test_every_family_is_here() -> None:
    assert {*DECODERS, *ENCODERS, *SEQ2SEQ, *WRITTEN, "nemotron-nas"} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_matrix_of_a_bf16_file_is_copied(family: str, tmp_path: Path) -> None:
    written(family, tmp_path)
    with open_model(tmp_path) as opened:
        assert {info.dtype for info in opened.checkpoint.tensors.values() if len(info.shape) > 1} == {"BF16"}
        prepared = prepare(opened, Request())
    resident = [source for source in prepared.plan if source.offset is not None]
    matrices = [source for source in prepared.plan if len(source.shape) > 1]
    copied = [source.name for source in resident if len(source.shape) > 1]
    assert bool(copied) == (family in TURNED), copied
    assert matrices
    if family not in TURNED:  # each vector's numbers as float32, in whole cache lines
        vectors = [source.shape[0] for source in resident]
        if family in WITHOUT_GAINS:
            assert not any("norm" in source.name for source in prepared.plan)
            vectors.append(prepared.plan.config.d_model)
        assert prepared.memory["weights_resident"] == sum(-(-4 * n // 64) * 64 for n in vectors)
        assert prepared.memory["weights_mapped"] == sum(source.nbytes for source in matrices)
