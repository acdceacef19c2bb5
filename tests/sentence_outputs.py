"""What sentence-transformers 6.2.0 gives for the cases of tests/test_sentence_encoder.py, in tests/data/sentences.json.

From the repository's root:

    pip install sentence-transformers==6.2.0 torch==2.13.0
    PYTHONPATH=tests python tests/sentence_outputs.py tests/data/sentences.json

Models are random and made anew, by NumPy: nothing but results is stored.
"""

from __future__ import annotations

import base64
import importlib
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from task_models import write_model

__all__ = ["CALLS", "ENCODERS", "JUDGES", "PAIRS", "RANKED", "TEXTS", "as_array", "write_encoder", "write_judge"]

TEXTS = [
    "Ana Ruiz flew to Berlin.", "", "  spaces around it\n", "a very good film 😀", "日本語 שלום", "the city of " * 40,
    "café", "is it good?",
]  # fmt: skip
#: name -> 1_Pooling/config.json, the steps after it, config_sentence_transformers.json, tokens of a text.
ENCODERS: dict[str, tuple[dict[str, Any], list[str], dict[str, Any], int]] = {
    "mean": ({"pooling_mode": "mean", "include_prompt": True}, ["Normalize"], {}, 32),
    "cls": ({"pooling_mode": "cls"}, [], {"similarity_fn_name": "dot", "truncate_dim": 24}, 64),
    "prompts": (
        {"pooling_mode": "mean", "include_prompt": False}, [],
        {"prompts": {"query": "who is ", "passage": "about: "}, "default_prompt_name": "passage",
         "similarity_fn_name": "euclidean"}, 48,
    ),
    "several": ({"pooling_mode": ["max", "weightedmean"]}, ["Normalize"], {"similarity_fn_name": "manhattan"}, 16),
}  # fmt: skip
#: method and parameters of each call.
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("encode", {}), ("encode", {"normalize_embeddings": True}), ("encode", {"truncate_dim": 8}),
    ("encode", {"truncate_dim": 8, "normalize_embeddings": True}), ("encode", {"truncate_dim": 4096}),
    ("encode", {"prompt": "a film: "}), ("encode", {"prompt_name": "query"}), ("encode", {"prompt": ""}),
    ("encode_query", {}), ("encode_document", {}), ("encode_document", {"prompt": "of "}),
    ("encode", {"precision": "int8"}), ("encode", {"precision": "uint8"}), ("encode", {"precision": "binary"}),
    ("encode", {"precision": "ubinary"}), ("encode", {"output_value": "token_embeddings", "batch_size": 3}),
]  # fmt: skip
#: name -> labels, what config.json says more.
JUDGES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "one": (("score",), {}),
    "identity": (("score",), {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
    "three": (("no", "perhaps", "yes"), {}),
}
PAIRS = [
    ("who flew?", "Ana Ruiz flew to Berlin."),
    ("", " a film "),
    ("is it good? " * 30, "yes"),
    ("a " * 50, "b " * 70),
]
RANKED = ["a good film", "Berlin is a city in Germany.", "tea", "the company makes a film " * 20]


def write_encoder(folder: Path, name: str) -> Path:
    """A directory as sentence-transformers 6.2 saves it."""
    pooling, after, said, most = ENCODERS[name]
    write_model(folder, "bert")
    kinds = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]
    kinds += [f"base.modules.{kind.lower()}.{kind}" for kind in after]
    paths = ["", *(f"{i}_{kind.rpartition('.')[2]}" for i, kind in enumerate(kinds[1:], 1))]
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
               for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    for path in paths[1:]:
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(
            json.dumps({"embedding_dimension": 32} | pooling if "P" in path else {})
        )
    said = {"model_type": "SentenceTransformer", "prompts": {}, "default_prompt_name": None} | said
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    _limit(folder, most)
    return folder


def write_judge(folder: Path, name: str) -> Path:
    """A classifier of pairs, which are cut at 40 tokens."""
    labels, more = JUDGES[name]
    write_model(folder, "bert", "classes", labels=labels, **more)
    _limit(folder, 40)
    return folder


def _limit(folder: Path, most: int) -> None:
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({"tokenizer_class": "BertTokenizerFast"} | said | {"model_max_length": most}))


def as_array(stored: dict[str, Any]) -> np.ndarray:
    """One of `stored`."""
    return np.frombuffer(base64.b64decode(stored["data"]), stored["dtype"]).reshape(stored["shape"])


def stored(result: Any) -> Any:
    """An array, or a list of them, as JSON."""
    if isinstance(result, list):
        return [stored(each) for each in result]
    array = np.asarray(result)
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def main(out: Path) -> None:
    """Run every case and write what comes out, with the versions."""
    sentence_transformers: Any = importlib.import_module("sentence_transformers")
    versions = {name: importlib.metadata.version(name) for name in ("sentence-transformers", "transformers", "torch")}
    record: dict[str, Any] = {"versions": versions, "encoders": {}, "judges": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ENCODERS:
            encoder = sentence_transformers.SentenceTransformer(
                str(write_encoder(Path(scratch) / name, name)), device="cpu"
            )
            results = [stored(getattr(encoder, method)(TEXTS, **how)) for method, how in CALLS]
            vectors = encoder.encode(TEXTS)
            record["encoders"][name] = {
                "results": results, "max_seq_length": encoder.max_seq_length, "prompts": encoder.prompts,
                "dimension": encoder.get_embedding_dimension(), "similarity_fn_name": encoder.similarity_fn_name,
                "similarity": stored(encoder.similarity(vectors, vectors[:3])),
                "pairwise": stored(encoder.similarity_pairwise(vectors[:4], vectors[4:])),
            }  # fmt: skip
        for name in JUDGES:
            judge = sentence_transformers.CrossEncoder(
                str(write_judge(Path(scratch) / f"judge-{name}", name)), device="cpu"
            )
            record["judges"][name] = {
                "scores": stored(judge.predict(PAIRS)), "alone": stored(judge.predict(PAIRS[0])),
                "softmax": stored(judge.predict(PAIRS, apply_softmax=True)), "max_seq_length": judge.max_seq_length,
                "ranked": judge.rank("who flew?", RANKED, return_documents=True) if judge.num_labels == 1 else None,
            }  # fmt: skip
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
