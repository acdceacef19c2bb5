"""Small models that write text, for the tests of tasks: random weights that NumPy draws, the same anywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from checkpoints import write_safetensors
from task_models import byte_pieces, likely_pieces

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["LANGUAGES", "write_writer"]

WIDTH, FEED, HEADS, LAYERS = 32, 48, 4, 2
LANGUAGES = {"nllb": ("deu_Latn", "eng_Latn", "fra_Latn"), "mbart": ("de_DE", "en_XX", "fr_XX")}
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if tools %}{{ tools | length }}{% endif %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_writer(directory: Path, kind: str, generation: dict[str, Any] | None = None, **more: Any) -> Path:
    """A model of a kind ("llama", "t5", "nllb", "mbart") with its tokenizer; `more` goes into config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    n_vocab = _tokenizer(directory, kind)
    config, tensors = _KINDS[kind](np.random.default_rng([*kind.encode()]), n_vocab)
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": n_vocab} | more, indent=1))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def _tokenizer(directory: Path, kind: str) -> int:
    vocab = (byte_pieces if kind == "llama" else likely_pieces)(directory)
    at, said_at = directory / "tokenizer.json", directory / "tokenizer_config.json"
    file = json.loads(at.read_text(encoding="utf-8"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 60, **names}
    if kind == "llama":
        said["chat_template"] = CHAT
        file["post_processor"] = _frame(["<s>"], [], vocab)
        n_vocab = len(vocab)
    else:
        languages = LANGUAGES.get(kind, ())
        pieces = [
            [{"[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}.get(t, t), s] for t, s in file["model"]["vocab"]
        ]
        pieces += [[language, 0.0] for language in languages]
        file["model"]["vocab"] = pieces
        vocab = {t: i for i, (t, _) in enumerate(pieces)}
        special = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", *languages)
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        file["added_tokens"] = [{"id": vocab[t], "content": t, **flags} for t in special]
        before, after = {"nllb": (["eng_Latn"], ["</s>"]), "mbart": ([], ["</s>", "en_XX"])}.get(kind, ([], ["</s>"]))
        file["post_processor"] = _frame(before, after, vocab)
        if kind != "t5":
            name = {"nllb": "NllbTokenizer", "mbart": "MBartTokenizer"}[kind]
            said |= {"tokenizer_class": name, "mask_token": "<mask>", "additional_special_tokens": list(languages)}
        n_vocab = len(pieces)
    at.write_text(json.dumps(file, ensure_ascii=False, indent=1), encoding="utf-8")
    said_at.write_text(json.dumps(said, indent=1))
    return n_vocab


def _frame(before: list[str], after: list[str], vocab: dict[str, int]) -> dict[str, Any]:
    def tokens(names: list[str]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]

    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*text, {"Sequence": {"id": "B", "type_id": 0}}]
    special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in (*before, *after)}
    single = [*tokens(before), *text, *tokens(after)]
    return {
        "type": "TemplateProcessing", "single": single, "pair": [*tokens(before), *pair, *tokens(after)],
        "special_tokens": special,
    }  # fmt: skip


class _Tensors(dict[str, np.ndarray]):
    """Named as they are made."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self._rng = rng

    def matrix(self, name: str, n: int, k: int, scale: float = 1.5, *, bias: bool = False) -> None:
        self[f"{name}.weight"] = (self._rng.standard_normal((n, k)) * scale / np.sqrt(k)).astype(np.float32)
        if bias:
            self[f"{name}.bias"] = (self._rng.standard_normal(n) * 0.2).astype(np.float32)

    def norm(self, name: str, *, bias: bool = False) -> None:
        self[f"{name}.weight"] = (1 + 0.2 * self._rng.standard_normal(WIDTH)).astype(np.float32)
        if bias:
            self[f"{name}.bias"] = (0.2 * self._rng.standard_normal(WIDTH)).astype(np.float32)


def _llama(rng: np.random.Generator, n_vocab: int) -> tuple[dict[str, Any], _Tensors]:
    t = _Tensors(rng)
    t.matrix("model.embed_tokens", n_vocab, WIDTH, 4)
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        for name in "qkvo":
            t.matrix(f"{at}.self_attn.{name}_proj", WIDTH, WIDTH)
        for name in ("gate", "up"):
            t.matrix(f"{at}.mlp.{name}_proj", FEED, WIDTH)
        t.matrix(f"{at}.mlp.down_proj", WIDTH, FEED)
        t.norm(f"{at}.input_layernorm")
        t.norm(f"{at}.post_attention_layernorm")
    t.norm("model.norm")
    t.matrix("lm_head", n_vocab, WIDTH, 3)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": FEED,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "hidden_act": "silu",
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
    }  # fmt: skip
    return config, t


def _t5(rng: np.random.Generator, n_vocab: int) -> tuple[dict[str, Any], _Tensors]:
    t = _Tensors(rng)
    t.matrix("shared", n_vocab, WIDTH, 4)
    for side, last in (("encoder", 1), ("decoder", 2)):
        for i in range(LAYERS):
            at = f"{side}.block.{i}.layer"
            for n, name in enumerate(("SelfAttention", "EncDecAttention")[:last]):
                for matrix in "qkvo":
                    t.matrix(f"{at}.{n}.{name}.{matrix}", WIDTH, WIDTH, 0.7 if matrix == "q" else 1.5)
                t.norm(f"{at}.{n}.layer_norm")
            if i == 0:
                t.matrix(f"{at}.0.SelfAttention.relative_attention_bias", 8, HEADS, 2)
            for name in ("wi_0", "wi_1"):
                t.matrix(f"{at}.{last}.DenseReluDense.{name}", FEED, WIDTH)
            t.matrix(f"{at}.{last}.DenseReluDense.wo", WIDTH, FEED)
            t.norm(f"{at}.{last}.layer_norm")
        t.norm(f"{side}.final_layer_norm")
    t.matrix("lm_head", n_vocab, WIDTH, 3)
    config = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": WIDTH, "d_kv": WIDTH // HEADS,
        "d_ff": FEED, "num_layers": LAYERS, "num_decoder_layers": LAYERS, "num_heads": HEADS,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "is_encoder_decoder": True,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 3,
    }  # fmt: skip
    return config, t


def _many_languages(rng: np.random.Generator, n_vocab: int, kind: str) -> tuple[dict[str, Any], _Tensors]:
    """M2M100's layers, with sinusoids; or mBART's, with learned positions."""
    t, learned = _Tensors(rng), kind == "mbart"
    t.matrix("model.shared", n_vocab, WIDTH, 1.5)
    for side in ("encoder", "decoder"):
        if learned:
            t.matrix(f"model.{side}.embed_positions", 130, WIDTH, 2)
            t.norm(f"model.{side}.layernorm_embedding", bias=True)
        for i in range(LAYERS):
            at = f"model.{side}.layers.{i}"
            for name in ("self_attn", "encoder_attn")[: 1 + (side == "decoder")]:
                for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    t.matrix(f"{at}.{name}.{matrix}", WIDTH, WIDTH, bias=True)
                t.norm(f"{at}.{name}_layer_norm", bias=True)
            t.matrix(f"{at}.fc1", FEED, WIDTH, bias=True)
            t.matrix(f"{at}.fc2", WIDTH, FEED, bias=True)
            t.norm(f"{at}.final_layer_norm", bias=True)
        t.norm(f"model.{side}.layer_norm", bias=True)
    if learned:
        t["final_logits_bias"] = (0.5 * rng.standard_normal((1, n_vocab))).astype(np.float32)
    name, family = ("MBart", "mbart") if learned else ("M2M100", "m2m_100")
    config = {
        "architectures": [f"{name}ForConditionalGeneration"], "model_type": family, "d_model": WIDTH,
        "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS, "encoder_ffn_dim": FEED, "decoder_ffn_dim": FEED,
        "activation_function": "gelu" if learned else "relu", "max_position_embeddings": 128, "scale_embedding": True,
        "is_encoder_decoder": True, "decoder_start_token_id": 3, "bos_token_id": 2, "pad_token_id": 0,
        "eos_token_id": 3, "num_hidden_layers": LAYERS, "forced_eos_token_id": None, "tie_word_embeddings": True,
    }  # fmt: skip
    return config, t


_KINDS: dict[str, Callable[[np.random.Generator, int], tuple[dict[str, Any], _Tensors]]] = {
    "llama": _llama,
    "t5": _t5,
    "nllb": lambda rng, n: _many_languages(rng, n, "nllb"),
    "mbart": lambda rng, n: _many_languages(rng, n, "mbart"),
}
