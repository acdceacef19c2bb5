"""Adapters that PEFT makes: kept apart, a text gets PEFT's own output. Of every kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
import test_classifiers
import test_decoders
import test_seq2seq

if TYPE_CHECKING:
    from pathlib import Path

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
#: Of transformers 5, which PEFT reads.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

IDS = [5, 9, 4, 7, 12, 8, 6, 10, 5, 5, 7]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"(q_proj|query_key_value|qkv_proj)": 7}, "alpha_pattern": {"(o_proj|dense.*)": 1}},
}


def adapted(model: Any, where: Path, targets: Any, **kinds: dict[str, Any]) -> tuple[Any, dict[str, Path]]:
    """The model with adapters of these names, whose numbers are drawn; each is written to a directory."""
    both, rng = None, torch.Generator().manual_seed(3)
    for name, said in kinds.items():
        usual = {"r": 4, "lora_alpha": 6, "target_modules": targets, "init_lora_weights": False}
        how = peft.LoraConfig(**usual | said)
        both = peft.get_peft_model(model, how, name) if both is None else both.add_adapter(name, how) or both
    with torch.no_grad():
        for parameter, p in both.named_parameters():
            if "lora_A" in parameter or "lora_B" in parameter:
                size = p.shape[1] ** -0.5 if "lora_A" in parameter else 0.3
                p.copy_((torch.randn(p.shape, generator=rng) * size).float())
            elif "magnitude" in parameter:
                p.copy_((p * (1 + 0.3 * torch.rand(p.shape, generator=rng))).float())
    both.save_pretrained(where)
    return both.double().eval(), {name: where / name for name in kinds}


def chosen(both: Any, name: str) -> Any:
    both.set_adapter(name)
    return both


FAMILIES = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    "phi3": ["qkv_proj", "gate_up_proj", "o_proj"],
    "gemma2": ["q_proj", "o_proj", "down_proj"],
    "bloom": ["query_key_value", "dense"],
    "falcon": ["query_key_value", "dense_4h_to_h"],
}


@pytest.mark.ci  # 40 s
@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_has_the_logits_of_peft(family: str, tmp_path: Path) -> None:
    config = transformers.CONFIG_MAPPING["llama"](
        vocab_size=53, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False,
    ) if family == "llama" else test_decoders.small(family)  # fmt: skip
    model = test_decoders.made(config, tmp_path / "base")
    plain = test_decoders.theirs(model, IDS)
    near = 4 * test_decoders.near(model, IDS, plain)
    both, paths = adapted(model, tmp_path / "adapters", FAMILIES[family], **KINDS)  # the model has them from now on
    with miaotui.load(tmp_path / "base", adapters=paths, threads=2) as mine:
        assert np.abs(mine.logits(IDS) - plain).max() <= near
        for name in paths:
            wanted = test_decoders.theirs(chosen(both, name), IDS)
            assert np.abs(wanted - plain).max() > 20 * near, "it changes nothing"
            assert np.abs(mine.logits(IDS, adapter=name) - wanted).max() <= near * max(
                1, np.abs(wanted).max() / np.abs(plain).max()
            )


def test_an_encoder_decoder_reads_and_writes_with_one_adapter(tmp_path: Path) -> None:
    for family, targets in (("t5", ["q", "v", "wo"]), ("bart", ["q_proj", "v_proj", "fc1", "out_proj"])):
        said = (
            {"vocab_size": 53, "d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 2, "num_heads": 2,
             "decoder_start_token_id": 0}
            if family == "t5"
            else {"vocab_size": 53, "d_model": 12, "encoder_layers": 2, "decoder_layers": 2,
                  "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 20,
                  "decoder_ffn_dim": 20, "max_position_embeddings": 64, "decoder_start_token_id": 2}
        )  # fmt: skip
        config, where = transformers.CONFIG_MAPPING[family](**said), tmp_path / family
        model = test_seq2seq.made(config, where / "base")
        both, paths = adapted(model, where / "adapters", targets, plain={}, dora={"use_dora": True, "r": 3})
        answer = [config.decoder_start_token_id, 9, 8, 7]
        with miaotui.load(where / "base", adapters=paths, threads=2) as mine:
            rows = []
            for name in paths:
                with torch.no_grad():
                    wanted = chosen(both, name)(
                        input_ids=torch.tensor([IDS]), decoder_input_ids=torch.tensor([answer])
                    ).logits[0].numpy()  # fmt: skip
                rows.append(mine.logits(IDS, decoder_ids=answer, adapter=name))
                assert np.abs(rows[-1] - wanted).max() <= 4 * test_seq2seq.near(config, wanted)
            assert np.abs(rows[0] - rows[1]).max() > 0.01
            alone = [mine.generate(IDS, adapter=name, max_new_tokens=5, ignore_eos=True).ids for name in paths]
            with mine.sequence(IDS, adapter="plain") as one, mine.sequence(IDS, adapter="dora") as other:
                got = [text.feed(answer) for text in (one, other)]
                assert [row.tobytes() for row in got] == [r[-1].tobytes() for r in rows]
            again = [mine.generate(IDS, adapter=name, max_new_tokens=5, ignore_eos=True).ids for name in paths]
            assert again == alone


def test_texts_of_an_encoder_choose_theirs(tmp_path: Path) -> None:
    config = transformers.CONFIG_MAPPING["bert"](
        vocab_size=53, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=64, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    model = test_classifiers.made(config, tmp_path / "base")
    both, paths = adapted(model, tmp_path / "adapters", ["query", "value", "dense"], plain={}, dora={"use_dora": True})
    with miaotui.load(tmp_path / "base", adapters=paths, threads=2) as mine, torch.no_grad():
        plain = mine.logits(IDS)
        for name in paths:
            wanted = chosen(both, name)(torch.tensor([IDS])).logits[0].numpy()
            got = mine.logits(IDS, adapter=name)
            assert np.abs(got - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())
            assert np.abs(got - plain).max() > 1e-2
