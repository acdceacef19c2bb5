"""A classifier's labels for a file of texts through onnxruntime, as a program would do it by hand.

Runs in the interpreter that has the peer's packages, alone, like `worker`: it needs nothing of miaotui.

    python -P classify_ort.py convert MODEL OUT               export, and fuse by onnxruntime's optimiser
    python -P classify_ort.py run OUT MODEL THREADS BATCH     then a line "INPUT OUTPUT" at a time on standard input:
                                                              texts, a line each, in batches padded to the longest;
                                                              a line of JSON each out -> {"seconds": ...}
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["convert", "main"]


def convert(model: Path, out: Path) -> None:
    """A graph (ids, mask) -> logits."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    optimizer: Any = importlib.import_module("onnxruntime.transformers.optimizer")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model, attn_implementation="eager")

    class Logits(torch.nn.Module):  # type: ignore[misc]  # torch is not imported here
        def __init__(self) -> None:
            super().__init__()
            self.classifier = classifier

        def forward(self, ids: Any, mask: Any) -> Any:  # noqa: ANN401 - tensors
            return self.classifier(input_ids=ids, attention_mask=mask).logits

    ids, axes = torch.ones((2, 8), dtype=torch.int64), {0: "batch", 1: "tokens"}
    out.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        Logits().eval(), (ids, torch.ones_like(ids)), str(out / "plain.onnx"), input_names=["ids", "mask"],
        output_names=["logits"], dynamic_axes={"ids": axes, "mask": axes, "logits": {0: "batch"}}, opset_version=17,
        dynamo=False,
    )  # fmt: skip
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    fused = optimizer.optimize_model(
        str(out / "plain.onnx"), "bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"]
    )
    (out / "fused.json").write_text(json.dumps(fused.get_fused_operator_statistics()), encoding="utf-8")
    fused.save_model_to_file(str(out / "model.onnx"))
    (out / "plain.onnx").unlink()


class Classifier:
    """A session, a tokenizer, and the labels."""

    def __init__(self, graph: Path, model: Path, threads: int, batch: int) -> None:
        """Load them."""
        ort: Any = importlib.import_module("onnxruntime")
        tokenizers: Any = importlib.import_module("tokenizers")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = ort.InferenceSession(str(graph / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(config["max_position_embeddings"])
        self._tokenizer.enable_padding()  # to the longest of a batch
        self._labels, self._batch = [config["id2label"][str(i)] for i in range(len(config["id2label"]))], batch

    def label(self, source: Path, out: Path) -> None:
        """Texts to labels, a batch at a time."""
        with source.open(encoding="utf-8", newline="\n") as texts, out.open("w", encoding="utf-8") as file:
            number = 0
            for batch in self._batches(line.rstrip("\n") for line in texts):
                for label, score in self._scored(batch):
                    number += 1
                    answer = {"label": label, "score": score}
                    file.write(json.dumps({"line": number, "output": answer}, ensure_ascii=False) + "\n")

    def _batches(self, texts: Iterator[str]) -> Iterator[list[str]]:
        waiting: list[str] = []
        for text in texts:
            waiting.append(text)
            if len(waiting) == self._batch:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def _scored(self, texts: Sequence[str]) -> Iterator[tuple[str, float]]:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded], np.int64)
        mask = np.array([each.attention_mask for each in encoded], np.int64)
        (logits,) = self._session.run(None, {"ids": ids, "mask": mask})
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best = shares.argmax(1)
        for row, i in zip(shares, best, strict=True):
            yield self._labels[i], float(row[i])


def main(argv: list[str]) -> int:
    """Convert, or wait for files."""
    if argv[0] == "convert":
        convert(Path(argv[1]), Path(argv[2]))
        return 0
    classifier = Classifier(Path(argv[1]), Path(argv[2]), int(argv[3]), int(argv[4]))
    about = {"name": "onnxruntime", "version": importlib.metadata.version("onnxruntime"), "batch": int(argv[4])}
    about |= {"fused": json.loads((Path(argv[1]) / "fused.json").read_text(encoding="utf-8"))}
    sys.stdout.write(json.dumps(about) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        source, out = line.split()
        start = time.perf_counter()
        classifier.label(Path(source), Path(out))
        sys.stdout.write(json.dumps({"seconds": time.perf_counter() - start}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
