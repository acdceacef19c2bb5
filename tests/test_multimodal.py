"""The language model of a checkpoint that sees images, too: Gemma 3 from 4B on, in both layouts of its tensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import ConfigError
from miaotui.loader.config import parse_config
from miaotui.loader.prune.plan import PrunePlan
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.prune import prune
from test_decoders import near, theirs
from test_decoders import oracle as text_oracle

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = list(range(4, 40))
#: config.json as google/gemma-3-4b-it has it, the sizes apart: what is missing is a default of the class.
PUBLISHED: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 91, "eoi_token_index": 92,
    "eos_token_id": [1, 6], "image_token_index": 90, "initializer_range": 0.02, "mm_tokens_per_image": 4,
    "model_type": "gemma3", "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
    "text_config": {
        "hidden_size": 32, "intermediate_size": 24, "model_type": "gemma3_text", "num_hidden_layers": 7,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 5, "head_dim": 8, "vocab_size": 97,
        "query_pre_attn_scalar": 7,
    },
    "vision_config": {
        "hidden_size": 16, "image_size": 28, "intermediate_size": 8, "model_type": "siglip_vision_model",
        "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 14, "vision_use_head": False,
    },
}  # fmt: skip
#: What stands before the names of its tensors, from transformers 5 on, for what stood there before.
NEWER = {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower."}
NEWER |= {"multi_modal_projector.": "model.multi_modal_projector."}


def written(directory: Path, layout: int) -> Any:
    """A random model as transformers 4 or 5 lays it out; it is returned in float64."""
    from safetensors.torch import load_file, save_file

    config = transformers.Gemma3Config(**{k: v for k, v in PUBLISHED.items() if k != "model_type"})
    torch.manual_seed(5)
    model = transformers.Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    model.to(torch.bfloat16).save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    assert any(name.startswith("language_model.model.") for name in tensors)
    assert any(name.startswith("vision_tower.") for name in tensors)
    if layout == 5:
        named = {next((new + n[len(old) :] for old, new in NEWER.items() if n.startswith(old)), n): n for n in tensors}
        save_file({new: tensors[old] for new, old in named.items()}, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(PUBLISHED))
    kind = transformers.Gemma3ForConditionalGeneration
    return kind.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("layout", [4, 5])
def test_its_text_is_that_of_transformers_and_images_are_skipped(layout: int, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", layout)
    with miaotui.load(tmp_path / "whole") as model:
        got = model.logits(IDS)
        new = model.generate(IDS, max_new_tokens=6, do_sample=False).ids
        assert (model.config.n_layers, model.config.eos_ids) == (7, (1, 6))
        [note] = [n for n in model.receipt.notes if "images" in n]
        skipped = [n for n in model.receipt.untouched if "vision_tower" in n or "multi_modal_projector" in n]
        assert skipped == list(model.receipt.untouched)
        assert note.startswith(
            f"{len(skipped)} tensors for images are skipped, {model.receipt.untouched_bytes:,} bytes"
        )
    exact = logits_of(whole, [*IDS, *new])
    text = transformers.Gemma3ForCausalLM(whole.config.text_config).to(torch.float64).eval()
    text.load_state_dict(
        {
            name.replace("model.language_model.", "model."): x
            for name, x in whole.state_dict().items()
            if "language_model" in name or name == "lm_head.weight"
        }
    )
    limit = near(text, IDS, exact[: len(IDS)])
    assert np.abs(got - exact[: len(IDS)]).max() <= limit
    after = exact[len(IDS) - 1 : -1]
    assert (after.max(axis=1) - after[np.arange(6), new] <= 2 * limit).all()


@pytest.mark.parametrize("layout", [pytest.param(4, marks=pytest.mark.ci), 5])
def test_what_is_written_of_it_is_a_text_model(layout: int, tmp_path: Path) -> None:
    written(tmp_path / "whole", layout)
    plan = PrunePlan((0, 1, 5), ffn=dict.fromkeys((0, 1, 5), tuple(range(12))))
    with miaotui.load(tmp_path / "whole", prune=plan) as model:
        wanted = model.logits(IDS)
    prune(tmp_path / "whole", tmp_path / "cut", plan)
    with miaotui.load(tmp_path / "cut") as model:
        assert model.logits(IDS).tobytes() == wanted.tobytes()
        assert not model.receipt.untouched
    again = text_oracle(tmp_path / "cut")
    assert type(again).__name__ == "Gemma3ForCausalLM"
    exact = theirs(again, IDS)
    assert np.abs(exact - wanted).max() <= near(again, IDS, exact)
    quantize(tmp_path / "whole", tmp_path / "int8", "int8")
    with miaotui.load(tmp_path / "whole", quantize="int8") as a, miaotui.load(tmp_path / "int8") as b:
        assert a.logits(IDS).tobytes() == b.logits(IDS).tobytes()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"text_config": None}, "text_config is None; expected an object"),
        ({"text_config": {"model_type": "llama"}}, "text_config.model_type is 'llama'; expected 'gemma3_text'"),
        ({"audio_config": {}}, "unknown key 'audio_config'"),
        ({"architectures": ["Gemma3ForSequenceClassification"]}, "architectures"),
        ({"text_config": PUBLISHED["text_config"] | {"mystery": 1}}, "unknown key 'mystery'"),
    ],
)
def test_configs_that_say_something_else_are_refused(keys: dict[str, Any], says: str) -> None:
    assert parse_config(PUBLISHED, "config.json").family == "gemma3_text"
    with pytest.raises(ConfigError, match=says):
        parse_config(PUBLISHED | keys, "config.json")
