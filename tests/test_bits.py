"""One order for every sum, seen in models of every kind: threads, chunks, packing and the CPU change no bit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import bits
import miaotui
import numpy as np
import pytest
import soak
from miaotui.runtime.encoding import Whole, encoded

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import test_decoders  # noqa: E402 - they need both
import test_encoders  # noqa: E402
import test_seq2seq  # noqa: E402

CONTEXT = 140
#: A family for each kind of attention and of norm that the kernels know.
ENCODERS = ("bert", "albert", "mpnet", "modernbert", "eurobert")
BOTH = ("bart", "t5")
DECODERS = ("bloom", "gptj", "gemma2", "gpt_neox")
KINDS = {**dict.fromkeys(ENCODERS, "encoder"), **dict.fromkeys(BOTH, "both"), **dict.fromkeys(DECODERS, "decoder")}
#: Of each kind, seen in every dtype on other CPUs.
SEEN = ("bert", "bart", "gptj")
DTYPES = ("F32", "BF16", "F16", "int8", "int4", "int4a")
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16}


def encoder(family: str) -> Any:
    """A small config of `transformers`."""
    sizes = {"vocab_size": 53, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 37, "max_position_embeddings": CONTEXT + 2}
    if family in test_encoders.ROTARY:
        sizes |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
        sizes |= {"local_attention": 10} if family == "modernbert" else {"num_key_value_heads": 1}
    if family == "albert":
        sizes["embedding_size"] = 12
    return transformers.CONFIG_MAPPING[family](**sizes)


def both(family: str) -> Any:
    """A small encoder-decoder."""
    if family == "bart":
        return test_seq2seq.small_config()
    return transformers.T5Config(
        vocab_size=53, d_model=24, d_kv=8, d_ff=37, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Directories, made when asked for: (family, dtype of the file) -> name in a folder."""
    folder, there = tmp_path_factory.mktemp("bits"), set[str]()

    def directory(family: str, dtype: str) -> Path:
        name = f"{family}-{dtype}"
        if name not in there:
            kind, as_torch = KINDS[family], TORCH.get(dtype)
            if kind == "encoder":
                test_encoders.made(encoder(family), folder / name, 3, as_torch)
            elif kind == "both":
                test_seq2seq.made(both(family), folder / name, 3, as_torch)
            else:
                more = {"max_position_embeddings": CONTEXT} if family != "bloom" else {}
                config = test_decoders.small(family, vocab_size=53, **more)
                test_decoders.made(config, folder / name, 3, as_torch)
            there.add(name)
        return folder / name

    return directory


def options(dtype: str) -> tuple[str, dict[str, Any]]:
    """The file's dtype, and options of load."""
    quantized = dtype.startswith("int")
    return ("F32" if quantized else dtype), {"max_context": CONTEXT, **({"quantize": dtype} if quantized else {})}


def every_case() -> list[Any]:
    """In ring fast a few; all others take about 2 s each."""
    fast = {("bert", "F32"), ("bart", "int8"), ("t5", "BF16")}
    return [
        (family, dtype) if (family, dtype) in fast else pytest.param(family, dtype, marks=pytest.mark.ci)
        for family in (*ENCODERS, *BOTH)
        for dtype in DTYPES
    ]


@pytest.mark.parametrize(("family", "dtype"), every_case())
def test_threads_chunks_and_packing_change_no_bit(written: Any, family: str, dtype: str) -> None:
    kind = KINDS[family]
    file, how = options(dtype)
    path = written(family, file)
    wanted = bits.digest(path, kind, how | {"threads": 1, "prefill_chunk": 512})
    for threads, chunk in ((1, 1), (2, 64), (3, 7), (3, 512)):
        assert bits.digest(path, kind, how | {"threads": threads, "prefill_chunk": chunk}) == wanted, (threads, chunk)
    with miaotui.load(path, threads=2, prefill_chunk=512, cache_tokens=128 * 16, **how) as model:
        together = list(bits.packed(model, kind))
        hidden = [model.hidden(text).tobytes() for text in bits.TEXTS]
        assert together[: len(hidden)] == hidden
        if kind == "both":
            last = [
                model.logits(text, decoder_ids=bits.TEXTS[i - 1])[-1].tobytes() for i, text in enumerate(bits.TEXTS)
            ]
            assert together[len(hidden) :] == last
        backwards = [row.tobytes() for row in encoded(model.session, map(Whole, reversed(bits.TEXTS)), np.copy)]
        assert backwards[::-1] == hidden


#: Each is compiled for by Numba; what runs here may have come compiled.
CPUS = [{"NUMBA_CPU_NAME": "haswell"}, {"NUMBA_CPU_NAME": "generic"}]


@pytest.mark.ci  # 75 s: compiles for another CPU
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86-64 CPUs")
@pytest.mark.parametrize("change", soak.rest("levels", CPUS, CPUS[1:]), ids=str)
def test_the_cpu_changes_no_bit(written: Any, change: dict[str, str]) -> None:
    cases, wanted = [], []
    for family, kind in KINDS.items():
        for dtype in DTYPES if family in SEEN else ("F32", "int8"):
            file, how = options(dtype)
            path = written(family, file)
            for word in (None, "exact") if (family, kind) == ("gptj", "decoder") and "quantize" in how else (None,):
                cases.append((path.name, kind, how | {"precision": word}))
                wanted.append(bits.digest(path, kind, how | {"precision": word}))
    done = subprocess.run(
        [sys.executable, bits.__file__, str(path.parent), json.dumps(cases)],
        env=os.environ | change, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(zip(cases, done.stdout.split(), strict=True)) == list(zip(cases, wanted, strict=True))
