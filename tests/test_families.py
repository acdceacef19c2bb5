"""Every family against `transformers` in float64: random small models, prompts of 1 to 70 tokens."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerance import U, bound

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

NEW = 6  # tokens generated
#: The argument's name: changed in transformers 5.24.
CACHE = "cache" if "cache" in signature(transformers.LlamaForCausalLM.forward).parameters else "past_key_values"
SETTINGS = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def oracle(directory: Path) -> Any:
    """Load the directory with transformers, in float64; it must use every tensor and invent none."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def oracle_logits(model: Any, ids: list[int]) -> np.ndarray:
    """Return [T, n_vocab] in float64.

    Dynamic RoPE depends on the length seen so far: there a token at a time, with the cache, is the definition that we
    share (each key keeps the rotation of its own step); transformers' single pass rotates all with the last length.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    row = torch.tensor([ids])
    with torch.no_grad():
        if rope.get("rope_type") != "dynamic":
            return model(row).logits[0].numpy()
        cache, steps = transformers.DynamicCache(), []  # keeps every key: its sliding kind errs for a window of 1
        for t in range(len(ids)):
            out = model(row[:, t : t + 1], **{CACHE: cache}, use_cache=True)
            steps.append(out.logits[0])
        return torch.cat(steps).numpy()


def sensitivity(model: Any, ids: list[int], wanted: np.ndarray) -> float:
    """How far the logits go when every number of the embedding moves by 2^-24 of itself.

    A norm over one or two numbers divides by their size, so a model of that width can enlarge an error a thousandfold.
    """
    table = model.get_input_embeddings().weight
    kept, sign = table.detach().clone(), np.random.default_rng(0).choice([-1.0, 1.0], tuple(table.shape))
    with torch.no_grad():
        table *= torch.tensor(1 + U * sign)
        moved = float(np.abs(oracle_logits(model, ids) - wanted).max())
        table.copy_(kept)
    return moved


def check(drawn: Drawn, ids: list[int], directory: Path, **options: int) -> None:
    """Compare logits, then follow a greedy generation: each token must be the oracle's best, or as good."""
    write_checkpoint(directory, drawn)
    theirs = oracle(directory)
    wanted = oracle_logits(theirs, ids)
    with miaotui.load(directory, **options) as model:
        got = model.logits(ids)
        new = model.generate(ids, max_new_tokens=NEW, do_sample=False).ids
        scale = max(float(np.abs(wanted).max()), sensitivity(theirs, ids, wanted) / U)
        limit = bound("model", "f32", model.config.n_layers, scale=scale)
    assert got.shape == wanted.shape
    assert got.dtype == np.float32
    worst = float(np.abs(got - wanted).max())
    assert worst <= limit, f"logits differ by {worst:.3g}, bound {limit:.3g}"
    assert len(new) == NEW
    after = oracle_logits(theirs, [*ids, *new])[len(ids) - 1 : -1]
    lost = after.max(axis=1) - after[np.arange(NEW), new]
    assert (lost <= 2 * limit).all(), f"greedy chose tokens {lost} below the best, bound {2 * limit:.3g}"


@st.composite
def cases(draw: st.DrawFn, family: str, rope: str | None = None) -> tuple[Drawn, list[int], dict[str, int]]:
    """Draw a model, a prompt that fits it, and how it is run."""
    drawn = draw(models(family, rope))
    length = draw(st.integers(1, drawn.longest))
    rng = np.random.default_rng(drawn.seed + length)
    ids = rng.integers(0, drawn.config["vocab_size"], length).tolist()
    return drawn, ids, {"threads": draw(st.sampled_from([1, 2])), "prefill_chunk": draw(st.sampled_from([5, 32, 128]))}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_text_are_those_of_transformers(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @SETTINGS
    @given(cases(family))
    def run(case: tuple[Drawn, list[int], dict[str, int]]) -> None:
        drawn, ids, options = case
        check(drawn, ids, tmp_path_factory.mktemp(family), **options)

    run()


@pytest.mark.parametrize("rope", ["linear", "dynamic", "llama3", "yarn"])
def test_every_rope_scaling(rope: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(SETTINGS, max_examples=6)
    @given(cases("llama", rope))
    def run(case: tuple[Drawn, list[int], dict[str, int]]) -> None:
        drawn, ids, options = case
        check(drawn, ids, tmp_path_factory.mktemp(rope), **options)

    run()


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_longest_prompt_in_every_dtype(family: str, dtype: str, tmp_path: Path) -> None:
    """Seventy tokens, a window shorter than that, queries grouped by three, widths that fill no vector."""
    config: dict[str, Any] = {
        "model_type": family,
        "vocab_size": 131,
        "hidden_size": 60,
        "intermediate_size": 67,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": None,
    }
    if family == "gpt2":
        config = {"model_type": "gpt2", "vocab_size": 131, "n_positions": 128, "n_embd": 60, "n_layer": 3, "n_head": 6}
        config |= {"bos_token_id": None, "eos_token_id": None}
    if family == "qwen3":
        config["head_dim"] = 18
    if family in {"mistral", "qwen2", "qwen3"}:
        config |= {"sliding_window": 19}
    if family in {"qwen2", "qwen3"}:
        config |= {"use_sliding_window": True, "max_window_layers": 1}
    ids = np.random.default_rng(7).integers(0, 131, 70).tolist()
    check(Drawn(config, dtype, seed=3), ids, tmp_path)
