"""What `mutations.py` damages, and who reads it: a kind is drawn from, written, and read as users' files are.

A kind is made for a folder; called with a `Random` it writes one damaged case, and returns what reads it, with words of
which an error must hold one: the file's name, or the argument's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from broken import CONFIG, header_of, safetensors_bytes, tensors, write_good
from checkpoints import FAMILIES, Drawn, small, write_checkpoint
from miaotui import load
from miaotui.limits import Request
from miaotui.loader.checkpoint import open_checkpoint
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.prune.compiled import compile_plan
from miaotui.loader.prune.forms import FORMS
from miaotui.loader.prune.options import parse_prune
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.loader.text.vocabulary import kept_fallback, kept_ids
from miaotui.prepare import prepare
from miaotui.runtime.rope import rope_tables
from mutation_families import families, sentences, seq2seq
from mutation_statistics import statistics
from mutation_tokenizers import small_files, tokenizer_makes
from mutations import dump, mutated_bytes, mutated_json, mutated_text, words_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from mutations import Case, Draw

__all__ = ["KINDS"]


def headers(folder: Path) -> Draw:
    """safetensors headers, of one file or of shards with their index."""
    some, (whole, shards) = tensors(), (write_good(folder / name) for name in ("whole", "shards"))
    names = sorted(some)
    halves = {f"{i}.safetensors": {n: some[n] for n in names[i::2]} for i in (0, 1)}
    index = {"metadata": {"total_size": 1}, "weight_map": {n: s for s, half in halves.items() for n in half}}
    (shards / "model.safetensors").unlink()
    good = {name: safetensors_bytes(header_of(half), data_of(half)) for name, half in halves.items()}
    words = words_of(header_of(some), index, ["F8_E4M3", "I64", "BOOL", "F4"])

    def draw(rng: Random) -> Case:
        if rng.random() < 0.25:
            for name, data in good.items():
                (shards / name).write_bytes(data)
            (shards / "model.safetensors.index.json").write_text(json.dumps(index))
            if rng.random() < 0.5:
                name = "model.safetensors.index.json"
                (shards / name).write_bytes(mutated_json(rng, index, words))
            else:
                name = rng.choice(list(halves))
                (shards / name).write_bytes(_weights(rng, halves[name], words))
            return lambda: _read_all(shards), (str(shards),)
        (whole / "model.safetensors").write_bytes(_weights(rng, some, words))
        return lambda: _read_all(whole), (str(whole),)

    return draw


def data_of(some: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """The data section."""
    return b"".join(t[2] for t in some.values())


def _weights(rng: Random, some: dict[str, tuple[str, list[int], bytes]], words: tuple[str, ...]) -> bytes:
    data = data_of(some)
    if rng.random() < 0.3:
        return mutated_bytes(rng, safetensors_bytes(header_of(some), data), words)
    raw = mutated_json(rng, header_of(some), words)
    lie = rng.choice((0, 1, 7, 2**31, 2**63, 2**64 - 1)) if rng.random() < 0.1 else None
    return safetensors_bytes(raw, data if rng.random() < 0.9 else mutated_bytes(rng, data, words), lie)


def _read_all(directory: Path) -> None:
    with open_checkpoint(directory) as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            view = checkpoint.array(name)
            assert view.nbytes == tensor.nbytes
            view.tobytes()
            del view


def configs(folder: Path, read: Callable[[Path], object] | None = None) -> Draw:
    """config.json of every family, next to tensors that fit the good one."""
    read = read or _prepare
    bases = {}
    for drawn in (*map(small, FAMILIES), _nemotron()):
        family = drawn.config["model_type"]
        written = drawn if family != "nemotron-nas" else Drawn({**small("llama").config, "intermediate_size": 256})
        write_checkpoint(folder / family, written)
        bases[family] = CONFIG | drawn.config if family != "gpt2" else {"n_inner": 7, **drawn.config}
        bases[family] |= SCALED if family in ("llama", "qwen2") else {}
    bases["qwen3"] |= {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["full_attention"] * 2}
    bases["mistral"] |= {"per_layer_config": {"1": {"intermediate_size": 7, "skip": []}}}
    bases["gpt2"] |= {"pruned_heads": {"0": [1]}}
    words = words_of(*bases.values(), ["per_layer_config", "pruned_heads", "yarn", "dynamic", "beta_fast", "truncate"])

    def draw(rng: Random) -> Case:
        family = rng.choice(list(bases))
        directory = folder / family
        (directory / "config.json").write_bytes(mutated_json(rng, bases[family], words))
        return lambda: read(directory), (str(directory), directory.name)

    return draw


def loads(folder: Path) -> Draw:
    """The same, loaded and computed where nothing is refused."""
    draw = configs(folder, _compute)
    for file in sorted(folder.glob("*/config.json")):  # what compiles does so before anything is timed
        _compute(file.parent)
    return draw


def _compute(directory: Path) -> None:
    with load(directory, threads=1, max_context=32) as model:
        assert model.logits([1, 2, 3]).shape == (3, model.config.n_vocab)


SCALED = {
    "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 32.0},
    "partial_rotary_factor": 1.0,
    "rope_theta": 1e4,
    "torch_dtype": "float32",
    "attention_dropout": 0.0,
}


def _nemotron() -> Drawn:
    """A Llama of 256 neurons, as Nemotron-NAS spells it."""
    block = {"attention": {"n_heads_in_group": 3, "no_op": False}, "ffn": {"ffn_mult": 5.0, "no_op": False}}
    config = {**small("llama").config, "model_type": "nemotron-nas", "intermediate_size": None}
    return Drawn(config | {"block_configs": [block, {**block, "ffn": {"intermediate_size": 256}}]})


def _prepare(directory: Path) -> None:
    """All that `load` does before it reads a tensor, and the table that positions are read from."""
    with open_model(directory) as opened:
        prepared = prepare(opened, Request(threads=1))
        for table in rope_tables(prepared.config, 16):
            assert np.isfinite(table.exact(0, 16)).all()


def tokenizers(folder: Path) -> Draw:
    """tokenizer.json of several makes, and the small files next to it."""
    makes = tokenizer_makes()
    words = words_of(*makes.values(), *(file for make in makes.values() for file in small_files(make).values()))
    for name in makes:
        write_good(folder / name)

    def draw(rng: Random) -> Case:
        make = rng.choice(list(makes))
        nearby = small_files(makes[make])
        files = {"tokenizer.json": makes[make], **nearby}
        for name in nearby:
            if rng.random() < 0.3:
                del files[name]
        one = rng.choice(list(files)) if rng.random() < 0.4 else "tokenizer.json"
        for name in ("tokenizer.json", *nearby):
            file = folder / make / name
            if name not in files:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(mutated_json(rng, files[name], words) if name == one else dump(files[name]).encode())
        return lambda: _tokenize(folder / make), (f"{folder / make}/", *files)

    return draw


def _tokenize(directory: Path) -> None:
    """What a model does with its tokenizer: texts to ids and back, with what names tokens elsewhere."""
    kept_ids(directory)
    kept_fallback(directory)
    open_model(directory).close()
    it = Tokenizer.from_directory(directory)
    for text in ("", "a b <s> zz ab\n1234 é日\U0001f600</s>"):
        it.decode(it.encode(text))
        it.decode([*it.encode(text, add_special_tokens=False), 5, 2**32 - 1], skip_special_tokens=False)
    assert 0 < it.n_vocab <= 2**32
    for i in it.special_ids:
        it.token_to_id(it.id_to_token(i) or "")


def _model(folder: Path) -> Path:
    """A Llama with a tokenizer and room for a plan: two layers, three heads of one group, twelve neurons."""
    write_checkpoint(folder / "model", Drawn(small("llama").config | {"intermediate_size": 12, "vocab_size": 263}))
    (folder / "model" / "tokenizer.json").write_text(dump(tokenizer_makes()["unigram"]))
    (folder / "model" / "tokenizer_config.json").write_text('{"unk_token": "<unk>"}')
    (folder / "text.txt").write_text("a b c")
    return folder / "model"


def plans(folder: Path) -> Draw:
    """Plans in files, ours and mergekit's, for a model that they fit."""
    directory = _model(folder)
    ours = {"format": "miaotui-prune", "version": 1}
    bases = (
        ours | {"layers": "0-1", "heads": {"0": "0-1", "1": ""}, "ffn": {"0": "0-2,5", "1": [0, 3]}, "notes": ["x"]},
        ours | {"order": "0-1,0-1", "vocab": "0-7,9", "vocab_fallback": 0, "width": "0-4,8", "sparsity": "1:3"},
        ours | {"ffn_ratio": 0.5, "width_ratio": 0.5, "sparsity": {"q": "0.5", "0-1.down": 0.25, "1": "dense"}},
        ours | {"model": {"family": "llama", "n_layers": 2}, "sparsity": {"block": [1, 3], "ratio": 0.5}},
        {"slices": [{"sources": [{"model": "x", "layer_range": [0, 2]}]},
                    {"sources": [{"model": {"model": {"path": "x"}}, "layer_range": [1, 2]}]}],
         "merge_method": "passthrough", "dtype": "bfloat16"},
    )  # fmt: skip
    words = words_of(*bases, ["embed", "head", "up", "all", "unk"])

    def draw(rng: Random) -> Case:
        base = rng.choice(bases)
        file = folder / ("plan.yaml" if rng.random() < 0.1 else "plan.json")
        file.write_bytes(mutated_json(rng, base, words))
        return lambda: _cut(str(file), directory), (str(file),)

    return draw


PRUNES = (
    *("keep-layers=0-1", "drop-layers=1", "drop-heads=0:0,1+1:2", "drop-attention=1", "drop-ffn=0; ffn=0.75"),
    *("vocab=text.txt; vocab-fallback=unk", "vocab=text.txt; vocab-fallback=bytes", "vocab=text.txt; vocab-fallback=0"),
    *("width=0-7", "width=0.75", "sparsity=2:4,down=0.5", "sparsity=0.5/1x3", "sparsity=stored", "plan=plan.json"),
    *("plan=plan.json; keep-layers=0; ffn=0.5", "ffn=0.5; width=0.5; sparsity=1:2", "plan.json"),
    "keep-layers=0-1; drop-heads=0:2; drop-attention=1; ffn=0.75; width=0-3,5; sparsity=q=0.5,0.down=1:3",
)


def prunes(folder: Path) -> Draw:
    """The short forms of `load(prune=)`."""
    directory = _model(folder)
    (folder / "plan.json").write_text(json.dumps({"format": "miaotui-prune", "version": 1, "layers": "0-1"}))
    names = (
        "plan",
        "all",
        "q",
        "k",
        "v",
        "o",
        "up",
        "down",
        "gate",
        "head",
        "stored",
        "dense",
        "0.5",
        "2:4",
        "text.txt",
    )
    words = (*(form.replace("_", "-") for form in FORMS), *names, *";=,+:/-")

    def draw(rng: Random) -> Case:
        text = mutated_text(rng, rng.choice(PRUNES), words)
        return lambda: _cut(text, directory), ("prune=",)

    return draw


def _cut(prune: str, directory: Path) -> None:
    with open_model(directory) as opened:
        plan = parse_prune(prune, opened)
        make_load_plan(opened, None, compile_plan(plan, opened.config, opened.checkpoint))
        assert len(str(plan)) < 10**6


KINDS: dict[str, Callable[[Path], Draw]] = {
    "headers": headers, "configs": configs, "loads": loads, "tokenizers": tokenizers, "plans": plans, "prunes": prunes,
    "statistics": statistics, "families": lambda folder: families(folder, _prepare), "sentences": sentences,
    "seq2seq": seq2seq,
}  # fmt: skip
