"""Small encoders for the tests of tasks: random weights that NumPy draws, tokenizers spelled out; the same anywhere.

Three kinds of tokenizer: BERT's pieces of words, RoBERTa's pieces of bytes, ALBERT's pieces by likelihood.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from checkpoints import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ENTITIES", "KINDS", "write_model"]

KINDS = ("bert", "roberta", "albert")
#: Architectures' endings, by what the tests call a head.
HEADS = {
    "classes": "ForSequenceClassification",
    "token_classes": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
    "masked_lm": "ForMaskedLM",
    "": "Model",
}
ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
POSITIONS, WIDTH, FEED, LAYERS = 64, 32, 48, 2

WORDS = """the a of to in and is was it for on that by this with from at be or an are as his her they we you not no
who where when what how Ana Ru Berlin London Paris flew good bad very film company makes tea yes capital city Germany
example about sport politics science great poor""".split()  # noqa: SIM905 - a list of words is longer
ENDINGS = ("s", "ed", "ing", "er", "ly", "iz", "kja", "vik", "ß", "é")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?;:'\"()-éßäöüł日本語中文字שלוםمرحبا😀👩🇩"


def write_model(
    directory: Path, kind: str, head: str = "", *, labels: tuple[str, ...] = (), positions: int = POSITIONS, **more: Any
) -> Path:
    """config.json, model.safetensors and the tokenizer's files of a random model; `more` goes into config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    vocab = TOKENIZERS[kind](directory)
    told = directory / "tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"model_max_length": positions}))
    config = _config(kind, head, len(vocab), positions) | more
    if labels:
        config |= {"id2label": {str(i): label for i, label in enumerate(labels)}}
        config |= {"label2id": {label: i for i, label in enumerate(labels)}}
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    n_out = {"classes": len(labels), "token_classes": len(labels), "spans": 2}.get(head, 0)
    rng = np.random.default_rng([*kind.encode(), *head.encode()])
    write_safetensors(directory / "model.safetensors", _tensors(rng, kind, head, len(vocab), n_out, positions))
    return directory


def _config(kind: str, head: str, n_vocab: int, positions: int) -> dict[str, Any]:
    name = {"bert": "Bert", "roberta": "Roberta", "albert": "Albert"}[kind]
    config: dict[str, Any] = {
        "architectures": [f"{name}{HEADS[head]}"], "model_type": kind, "vocab_size": n_vocab, "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": FEED, "hidden_act": "gelu",
        "max_position_embeddings": positions, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "roberta":
        config |= {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": positions + 2}
        config |= {"bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}
    if kind == "albert":
        config |= {"embedding_size": WIDTH, "num_hidden_groups": 1, "inner_group_num": 1, "hidden_act": "gelu_new"}
    return config


def _tensors(
    rng: np.random.Generator, kind: str, head: str, n_vocab: int, n_out: int, positions: int
) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}

    def linear(name: str, n: int, k: int, scale: float = 1.5) -> None:
        out[f"{name}.weight"] = (rng.standard_normal((n, k)) * scale / np.sqrt(k)).astype(np.float32)
        out[f"{name}.bias"] = (rng.standard_normal(n) * 0.2).astype(np.float32)

    def norm(name: str) -> None:
        out[f"{name}.weight"] = (1 + 0.2 * rng.standard_normal(WIDTH)).astype(np.float32)
        out[f"{name}.bias"] = (0.2 * rng.standard_normal(WIDTH)).astype(np.float32)

    n_positions, n_types = (positions + 2, 1) if kind == "roberta" else (positions, 2)
    at = f"{kind}.embeddings"
    for name, n in (("word", n_vocab), ("position", n_positions), ("token_type", n_types)):
        out[f"{at}.{name}_embeddings.weight"] = rng.standard_normal((n, WIDTH)).astype(np.float32)
    norm(f"{at}.LayerNorm")
    if kind == "albert":
        linear("albert.encoder.embedding_hidden_mapping_in", WIDTH, WIDTH)
        _albert_layer("albert.encoder.albert_layer_groups.0.albert_layers.0", linear, norm)
    for i in range(0 if kind == "albert" else LAYERS):
        _bert_layer(f"{kind}.encoder.layer.{i}", linear, norm)
    _head(kind, head, n_vocab, n_out, out, linear, norm)
    return out


def _bert_layer(at: str, linear: Any, norm: Any) -> None:
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        linear(f"{at}.attention.{name}", WIDTH, WIDTH)
    norm(f"{at}.attention.output.LayerNorm")
    linear(f"{at}.intermediate.dense", FEED, WIDTH)
    linear(f"{at}.output.dense", WIDTH, FEED)
    norm(f"{at}.output.LayerNorm")


def _albert_layer(at: str, linear: Any, norm: Any) -> None:
    for name in ("query", "key", "value", "dense"):
        linear(f"{at}.attention.{name}", WIDTH, WIDTH)
    norm(f"{at}.attention.LayerNorm")
    linear(f"{at}.ffn", FEED, WIDTH)
    linear(f"{at}.ffn_output", WIDTH, FEED)
    norm(f"{at}.full_layer_layer_norm")


def _head(kind: str, head: str, n_vocab: int, n_out: int, out: dict[str, np.ndarray], linear: Any, norm: Any) -> None:
    """Logits differ by a few: labels change from text to text."""
    pooled = head == "classes" or not head
    if kind == "roberta" and head == "classes":
        linear("classifier.dense", WIDTH, WIDTH)
        linear("classifier.out_proj", n_out, WIDTH, 3)
    elif head:
        name = {"classes": "classifier", "token_classes": "classifier", "spans": "qa_outputs"}.get(head)
        if name:
            linear(name, n_out, WIDTH, 3)
    if pooled and kind != "roberta":
        linear("bert.pooler.dense" if kind == "bert" else "albert.pooler", WIDTH, WIDTH)
    if head == "masked_lm":
        dense, norms, bias = {
            "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
            "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
            "albert": ("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
        }[kind]
        linear(dense, WIDTH, WIDTH)
        norm(norms)
        out[bias] = (0.3 * np.cos(np.arange(n_vocab))).astype(np.float32)


def _save(directory: Path, tokenizer: dict[str, Any], said: dict[str, Any]) -> None:
    base = {"version": "1.0", "truncation": None, "padding": None}
    (directory / "tokenizer.json").write_text(json.dumps(base | tokenizer, ensure_ascii=False, indent=1))
    (directory / "tokenizer_config.json").write_text(json.dumps(said, indent=1))


def _added(tokens: dict[str, int], **flags: bool) -> list[dict[str, Any]]:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": t, **usual, **(flags if "mask" in t.lower() else {})} for t, i in tokens.items()]


def _template(cls: tuple[str, int], sep: tuple[str, int]) -> dict[str, Any]:
    def special(token: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(cls[0], 0), text("A", 0), special(sep[0], 0)]
    tokens = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in (cls, sep)}
    pair = [*single, text("B", 1), special(sep[0], 1)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def word_pieces(directory: Path) -> dict[str, int]:
    """BERT's, with upper case."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [
        *special,
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
        *WORDS,
        *(f"##{e}" for e in ENDINGS if len(e) > 1),
        "Rey",
    ]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    _save(
        directory,
        {
            "added_tokens": _added({t: vocab[t] for t in special}),
            "normalizer": {
                "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                "lowercase": False,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": _template(("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])),
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab,
            },
        },
        {
            "tokenizer_class": "BertTokenizer", "model_max_length": POSITIONS, "do_lower_case": False,
            "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    )  # fmt: skip
    return vocab


def _bytes() -> list[str]:
    """Byte-level BPE's character for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(rest)) for b in range(256)]


def byte_pieces(directory: Path) -> dict[str, int]:
    """RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    merges: list[tuple[str, str]] = []
    whole = list(_bytes())
    for word in (f"Ġ{w}" for w in WORDS if w.isascii()):
        left = word[0]
        for c in word[1:]:
            if (left, c) not in merges:
                merges.append((left, c))
                whole.append(left + c)
            left += c
    vocab = {t: i for i, t in enumerate(dict.fromkeys([*special[:4], *whole, special[4]]))}
    _save(
        directory,
        {
            "added_tokens": _added({t: vocab[t] for t in special}, lstrip=True),
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": {
                "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True,
                "add_prefix_space": False,
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                "vocab": vocab, "merges": [list(pair) for pair in merges],
            },
        },
        {
            "tokenizer_class": "RobertaTokenizer", "model_max_length": POSITIONS, "add_prefix_space": False,
            "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": {
                "__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False,
                "single_word": False,
            },
        },
    )  # fmt: skip
    return vocab


def likely_pieces(directory: Path) -> dict[str, int]:
    """ALBERT's: SentencePiece's unigrams."""
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    words = [f"{space}{w}" for w in WORDS]
    tokens = list(dict.fromkeys([*special, space, *words, *ENDINGS, *LETTERS]))
    scores = [0.0 if t in special else -2.0 - 0.25 * (i % 13) - (6 if len(t) == 1 else 0) for i, t in enumerate(tokens)]
    vocab = {t: i for i, t in enumerate(tokens)}
    meta = {"type": "Metaspace", "replacement": space, "prepend_scheme": "always", "split": True}
    _save(
        directory,
        {
            "added_tokens": _added({t: vocab[t] for t in special}, lstrip=True),
            "normalizer": {"type": "NFKC"},
            "pre_tokenizer": meta,
            "post_processor": _template(("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])),
            "decoder": meta,
            "model": {"type": "Unigram", "unk_id": 1, "vocab": [[t, s] for t, s in zip(tokens, scores, strict=True)],
                      "byte_fallback": False},
        },
        {
            "tokenizer_class": "AlbertTokenizer", "model_max_length": POSITIONS, "bos_token": "[CLS]",
            "eos_token": "[SEP]", "unk_token": "<unk>", "sep_token": "[SEP]", "pad_token": "<pad>",
            "cls_token": "[CLS]",
            "mask_token": {
                "__type": "AddedToken", "content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False,
                "single_word": False,
            },
        },
    )  # fmt: skip
    return vocab


TOKENIZERS = {"bert": word_pieces, "roberta": byte_pieces, "albert": likely_pieces}
