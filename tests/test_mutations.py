"""Damaged files and arguments: one short typed error that names them, or something read; whatever the damage.

`./dev soak mutations` draws 100,000 of each kind, the rings some. A failure tells how to have it again:
`python tests/mutation_run.py KIND SEED 1`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from random import Random
from typing import TYPE_CHECKING, Any

import mutation_families
import mutation_kinds
import pytest
import soak
from checkpoints import write_safetensors
from miaotui.encode import Vectors
from miaotui.errors import CheckpointError, ConfigError, InputError, MiaotuiError, PlanError, TokenizerError
from miaotui.loader.config import resolve_config
from miaotui.loader.families import FAMILIES
from miaotui.loader.files import printable
from miaotui.loader.open import open_model
from miaotui.loader.prune.options import parse_prune
from miaotui.loader.sentence import Sentence, read_sentence
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.tools.importance.calibrate import read_statistics
from miaotui.tools.importance.store import write_arrays
from mutation_families import small_config, write_fitting
from mutation_kinds import KINDS
from mutation_run import LONGEST, run
from mutation_tokenizers import tokenizer_makes
from mutations import dump
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

linux = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="a process's peak is read from /proc"
)


def tried(kind: str, seed: int, n: int, processes: int = 1) -> None:
    """Run, count, and fail with what is needed to have a failure again."""
    outcome = run(kind, seed, n, processes=processes, batch=min(2000, n))
    soak.count(f"{kind}: cases", outcome.cases)
    soak.count(f"{kind}: read", outcome.read)
    for error, times in outcome.refused.items():
        soak.count(f"{kind}: {error}", times)
    soak.COUNTED[f"{kind}: peak bytes"] = max(outcome.peak, soak.COUNTED.get(f"{kind}: peak bytes", 0))
    soak.COUNTED[f"{kind}: slowest, ms"] = max(
        round(1000 * outcome.slowest), soak.COUNTED.get(f"{kind}: slowest, ms", 0)
    )
    print(f"{kind}: {outcome}")  # noqa: T201 - shown where it fails
    assert not outcome.failures, f"{outcome.n_failures} failures"
    assert outcome.cases == n
    assert outcome.read > 0
    assert sum(outcome.refused.values()) + outcome.read == n


@linux
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"loads"}))
def test_a_few(kind: str) -> None:
    tried(kind, 0, 60)


@linux
@pytest.mark.ci  # 15 s
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_some(kind: str) -> None:
    tried(kind, 2**32, 1000)


@linux
@pytest.mark.soak("mutations")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_hundred_thousand(kind: str, request: pytest.FixtureRequest) -> None:
    """Of a soak's round: its seed is that of the first case."""
    seed = int(request.config.getoption("--hypothesis-seed") or 0)
    tried(kind, 2**33 + 100_000 * seed, 100_000, processes=os.cpu_count() or 1)


@pytest.mark.parametrize(
    "kind", ["headers", "configs", "tokenizers", "plans", "prunes", "families", "sentences", "seq2seq"]
)
def test_without_damage_all_are_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged was good: a mutation is refused for itself."""
    for module in (mutation_kinds, mutation_families):
        monkeypatch.setattr(module, "mutated_json", lambda _, document, __: dump(document).encode())
    monkeypatch.setattr(mutation_kinds, "mutated_text", lambda _, text, __: text)
    monkeypatch.setattr(mutation_kinds, "mutated_bytes", lambda _, data, __: data)
    monkeypatch.chdir(tmp_path)
    draw = KINDS[kind](tmp_path)
    for seed in range(60):
        rng = Random(seed)  # noqa: S311 - damage, no secret
        rng.random = lambda: 0.5  # type: ignore[method-assign]  # no lies about lengths
        draw(rng)[0]()


# ---------------------------------------------------------------------------------- what was found, each once more


def short(error: BaseException, *words: str) -> None:
    """A message that can be shown, of bounded length, with these words."""
    said = str(error)
    assert said.isprintable()
    assert len(said) <= LONGEST
    assert all(word in said for word in words), said


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return mutation_kinds._model(tmp_path)


@pytest.mark.parametrize("text", ["w\x1bdth=0.75", "\x1b[31m=1", "width=0-3;\x85;\x85", "\U000e6be6" * 900 + "=1",
                                  "a=" + "\U000e6be6" * 900, ";".join(f"a{i}={i}" for i in range(3000)),
                                  "a\nb=1;a\nb=1"])  # fmt: skip
def test_short_forms_are_named_in_characters_that_can_be_shown(model: Path, text: str) -> None:
    with open_model(model) as opened, pytest.raises((PlanError, InputError)) as e:
        parse_prune(text, opened)
    short(e.value, "prune=")


@pytest.mark.parametrize("version", ["\x1b[31m", "x" * 100_000, "\U00014a28"])
def test_what_the_tokenizers_library_says_is_cut_and_escaped(model: Path, version: str) -> None:
    file = model / "tokenizer.json"
    for key in ("version", "added_tokens"):
        file.write_text(dump(tokenizer_makes()["words"] | {key: version}))
        with pytest.raises(TokenizerError) as e:
            Tokenizer.from_directory(model)
        short(e.value, str(file), "cannot load")


@pytest.mark.parametrize("text", ["slices: [[\u202e[", "slices: [\x1b", "a: " + "[" * 2**20])
@pytest.mark.skipif(find_spec("yaml") is None, reason="the extra yaml is not installed")
def test_what_the_yaml_library_says_is_cut_and_escaped(model: Path, text: str) -> None:
    file = model.parent / "plan.yaml"
    file.write_text(text)
    with open_model(model) as opened, pytest.raises(PlanError) as e:
        parse_prune(str(file), opened)
    short(e.value, str(file))


ODD: list[dict[str, Any]] = [
    {}, {"n": 1.5}, {"n": "x"}, {"done": [1]}, {"done": -1}, {"cosine": 1.0}, {"cosine": ["x"]}, {"total/": [1.0]},
    {"x": [1.0]}, {"other/y": [1.0]}, {"total/a": [[1.0]]}, {"hessian/a": [1.0]}, {"hessian/a": [[1.0, 2.0]]},
    {"squares/a": [1]},
]  # fmt: skip


@pytest.mark.parametrize("more", ODD)
def test_statistics_of_another_make_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    """Whole and with the right mark, but not what a calibration writes: a KeyError, or sums of another thing."""
    file, good = tmp_path / "s.npz", {"done": 1, "n": 7, "cosine": [1.0], "total/a": [1.0], "hessian/a": [[1.0]]}
    write_arrays(file, "mark", **good)
    assert read_statistics(file, "mark")[1] == 1
    write_arrays(file, "mark", **(good | more if more else {}))
    with pytest.raises(InputError, match="no statistics that this version reads") as e:
        read_statistics(file, "mark")
    short(e.value, str(file))


def test_a_layer_of_its_own_costs_no_look_at_every_other(model: Path) -> None:
    """per_layer_config of 65536 layers took 65536 * 65536 looks: minutes."""
    config = dict(mutation_kinds.small("llama").config, num_hidden_layers=2**16)
    (model / "config.json").write_text(dump(config | {"per_layer_config": {"1": {"skip": ["mlp"]}}}))
    with pytest.raises(MiaotuiError) as e:
        open_model(model).model_tensors.close()  # type: ignore[attr-defined]  # it is refused
    short(e.value, str(model))


@pytest.mark.parametrize("value", [5, True, "BertModel", {"a": 1}, [["BertModel"]], [None]])
@pytest.mark.parametrize("family", ["bert", "electra", "t5"])
def test_architectures_that_are_no_names(tmp_path: Path, family: str, value: object) -> None:
    """A number of them was a TypeError."""
    write_fitting(tmp_path, small_config(family))
    (tmp_path / "config.json").write_text(dump(small_config(family) | {"architectures": value}))
    with pytest.raises(MiaotuiError) as e:
        open_model(tmp_path)
    short(e.value, str(tmp_path), "architectures is")


@pytest.mark.parametrize(("family", "key"), [
    ("roberta", "pad_token_id"), ("m2m_100", "pad_token_id"), ("modernbert", "classifier_pooling"),
    ("eurobert", "classifier_pooling"), ("gemma3_text", "rope_parameters"), ("gemma3_text", "layer_types"),
])  # fmt: skip
def test_a_long_value_is_not_the_message(tmp_path: Path, family: str, key: str) -> None:
    config = small_config(family) | {key: [1] * 100_000, "architectures": ["XForSequenceClassification"]}
    config |= {} if family in {"roberta", "modernbert", "eurobert"} else {"architectures": []}
    (tmp_path / "config.json").write_text(dump(config))
    with pytest.raises(ConfigError) as e:
        resolve_config(config, str(tmp_path))
    short(e.value, str(tmp_path), f"{key} is")


@pytest.mark.parametrize("family", ["t5", "umt5", "bart", "bert"])
def test_an_embedding_that_is_missing_is_named(tmp_path: Path, family: str) -> None:
    """An encoder has no head to take it from: a KeyError."""
    write_fitting(tmp_path, small_config(family))
    tensors = load_file(tmp_path / "model.safetensors")
    embed = next(name for name in tensors if name.endswith(("shared.weight", "word_embeddings.weight")))
    write_safetensors(tmp_path / "model.safetensors", {n: t for n, t in tensors.items() if n != embed})
    with pytest.raises(CheckpointError, match=f"tensor {embed} .* missing"), open_model(tmp_path) as opened:
        opened.model_tensors  # noqa: B018 - compared at first use


ODD_NAMES = [{}, [], 3, True, "no such", "\ud800", "query\x1b[31m"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_prompt_s_name_that_is_none(tmp_path: Path, name: object) -> None:
    """A list was a TypeError, and the names of all prompts, a megabyte, the message."""
    said = {"prompts": {f"\x1b{i}": "" for i in range(5000)}, "default_prompt_name": name}
    (tmp_path / "config_sentence_transformers.json").write_text(dump(said))
    with pytest.raises(ConfigError) as e:
        read_sentence(tmp_path, 12)
    short(e.value, str(tmp_path), "default_prompt_name is")
    vectors = object.__new__(Vectors)
    vectors.how = Sentence(12, prompts=said["prompts"])
    with pytest.raises(InputError) as other:
        vectors._prompt(None, name)  # type: ignore[arg-type]  # a caller's
    short(other.value, "prompt_name=")


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gpt2"}))
def test_every_family_has_a_small_config(tmp_path: Path, family: str) -> None:
    """Whose damage is seen: undamaged it is read."""
    write_fitting(tmp_path, small_config(family))
    mutation_kinds._prepare(tmp_path)


def test_printable() -> None:
    assert printable("naïve 日本") == "naïve 日本"
    assert printable("a\x1b\ud800\nb") == "a\\x1b\\ud800\\nb"
    assert printable("\U000e6be6" * 10**6, 50).endswith("...")
    assert len(printable("\U000e6be6" * 10**6, 50)) == 50
