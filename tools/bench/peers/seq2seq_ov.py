"""OpenVINO on the CPU: an encoder-decoder as three graphs, whose decoder keeps its keys and values in the plugin.

The encoder's graph is that of `transformers`. What the decoder reads of it is computed once for a text, by a graph of
its own; a step of the decoder is written here with PyTorch's operators, since the one of `transformers` hands its
cache from Python object to Python object. Its results are compared with ours before anything is timed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PACKAGES = ("openvino", "torch", "transformers")
DTYPES = {"f32": "f32"}
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "PERFORMANCE_HINT": "LATENCY"}
#: Distances whose bias is looked up, of T5's decoder.
LONGEST = 512


def _graphs(model: Any) -> tuple[Any, Any, Any, int]:  # noqa: ANN401, C901 - three modules of PyTorch
    """Encoder, cross keys and values, decoder's step; layers of the decoder."""
    torch: Any = importlib.import_module("torch")
    f, t5 = torch.nn.functional, model.config.model_type == "t5"
    decoder = model.get_decoder()
    heads = model.config.num_heads if t5 else model.config.decoder_attention_heads
    blocks = list(decoder.block if t5 else decoder.layers)

    def parts(block: Any) -> dict[str, Any]:  # noqa: ANN401
        if t5:
            own, cross, last = block.layer
            own_norm, cross_norm, ff_norm = own.layer_norm, cross.layer_norm, last.layer_norm
            own, cross = own.SelfAttention, cross.EncDecAttention
            q, k, v, o, up, down = "q", "k", "v", "o", last.DenseReluDense.wi, last.DenseReluDense.wo
        else:
            own, cross, own_norm, cross_norm = (getattr(block, name) for name in (
                "self_attn", "encoder_attn", "self_attn_layer_norm", "encoder_attn_layer_norm"))  # fmt: skip
            ff_norm, up, down = block.final_layer_norm, block.fc1, block.fc2
            q, k, v, o = "q_proj", "k_proj", "v_proj", "out_proj"
        sides = {name: [getattr(x, part) for part in (q, k, v, o)] for name, x in (("own", own), ("cross", cross))}
        return {**sides, "norms": (own_norm, cross_norm, ff_norm), "up": up, "down": down}

    layers = [parts(block) for block in blocks]

    def split(x: Any) -> Any:  # noqa: ANN401 - [1, n, heads * d] -> [1, heads, n, d]
        return x.view(1, -1, heads, x.shape[-1] // heads).transpose(1, 2)

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.get_encoder()

        def forward(self, ids: Any) -> Any:  # noqa: ANN401
            return self.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state

    class Cross(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kv = torch.nn.ModuleList([m for layer in layers for m in layer["cross"][1:3]])

        def forward(self, hidden: Any) -> Any:  # noqa: ANN401
            return tuple(split(m(hidden)) for m in self.kv)

    class Step(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.head = decoder, model.lm_head
            if t5:
                table = decoder.block[0].layer[0].SelfAttention
                # the last query's biases, by how far back a key lies
                far = table.compute_bias(LONGEST, LONGEST)[:, :, -1:].flip(-1)
                self.register_buffer("bias", far)

        def forward(self, ids: Any, position: Any, *kv: Any) -> Any:  # noqa: ANN401
            x = self.decoder.embed_tokens(ids)
            if not t5:
                x = self.decoder.layernorm_embedding(x + self.decoder.embed_positions.weight[position + 2])
            out = []
            for i, layer in enumerate(layers):
                past_k, past_v, cross_k, cross_v = kv[4 * i : 4 * i + 4]
                for kind, norm in zip(("own", "cross"), layer["norms"][:2], strict=True):
                    q, k, v, o = layer[kind]
                    h = norm(x) if t5 else x
                    if kind == "own":
                        keys, values = (torch.cat([p, split(m(h))], 2) for p, m in ((past_k, k), (past_v, v)))
                        out += [keys, values]
                        n = keys.shape[2]
                        mask = self.bias[:, :, :, n - 1 - torch.arange(n)] if t5 else None
                    else:
                        keys, values, mask = cross_k, cross_v, None
                    scale = {"scale": 1.0} if t5 else {}
                    y = f.scaled_dot_product_attention(split(q(h)), keys, values, attn_mask=mask, **scale)
                    y = o(y.transpose(1, 2).reshape(1, 1, -1))
                    x = x + y if t5 else norm(x + y)
                norm = layer["norms"][2]
                if t5:
                    x = x + layer["down"](torch.relu(layer["up"](norm(x))))
                else:
                    x = norm(x + layer["down"](f.gelu(layer["up"](x))))
            if t5:
                x = self.decoder.final_layer_norm(x)
                x = x * (x.shape[-1] ** -0.5) if model.config.tie_word_embeddings else x
            logits = self.head(x)[0, -1]
            logits = logits if t5 else logits + model.final_logits_bias[0]
            return (logits.argmax(-1), *out)

    return Encoder().eval(), Cross().eval(), Step().eval(), len(layers)


def convert(model: Path, out: Path, _dtype: str) -> None:
    """Trace the three, and let the decoder keep its cache."""
    ov: Any = importlib.import_module("openvino")
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    stateful: Any = importlib.import_module("openvino._offline_transformations").apply_make_stateful_transformation
    torch.set_grad_enabled(False)
    whole = transformers.AutoModelForSeq2SeqLM.from_pretrained(model, attn_implementation="eager").eval()
    encoder, cross, step, n = _graphs(whole)
    ids = torch.arange(3, 11)[None]
    hidden = encoder(ids)
    crossed = cross(hidden)
    past = torch.zeros(crossed[0].shape)[:, :, :2]
    kv = [t for i in range(n) for t in (past, past, *crossed[2 * i : 2 * i + 2])]
    out.mkdir()
    # the axis of a cache that grows, and of a text, is free; all others are known
    grows = ov.PartialShape([1, past.shape[1], -1, past.shape[3]])
    graphs = {
        "encoder": ov.convert_model(encoder, example_input=ids, input=[ov.PartialShape([1, -1])]),
        "cross": ov.convert_model(cross, example_input=hidden, input=[ov.PartialShape([1, -1, hidden.shape[-1]])]),
        "step": ov.convert_model(
            step, example_input=(torch.tensor([[3]]), torch.tensor([2]), *kv),
            input=[ov.PartialShape([1, 1]), ov.PartialShape([1]), *[grows] * len(kv)],
        ),
    }  # fmt: skip
    graph = graphs["step"]
    pairs = {}
    for i in range(2 * n):
        given, made = graph.inputs[2 + i // 2 * 4 + i % 2], graph.outputs[1 + i]
        given.get_tensor().set_names({f"past{i}"})
        made.get_tensor().set_names({f"present{i}"})
        pairs[f"past{i}"] = f"present{i}"
    stateful(graph, pairs)
    for name, made in graphs.items():
        ov.save_model(made, out / f"{name}.xml", compress_to_fp16=False)
    start = whole.config.decoder_start_token_id
    (out / "start.txt").write_text(str(start), encoding="utf-8")


class Engine:
    """One infer request of each graph."""

    def __init__(self, path: Path, _dtype: str, threads: int, _context: int) -> None:
        """Compile the models."""
        begun = time.perf_counter()
        ov: Any = importlib.import_module("openvino")
        self._settings = SETTINGS | {"INFERENCE_NUM_THREADS": threads}
        core = ov.Core()
        self._encoder, self._cross, self._step = (
            core.compile_model(path / f"{name}.xml", "CPU", self._settings).create_infer_request()
            for name in ("encoder", "cross", "step")
        )
        self._start = int((path / "start.txt").read_text(encoding="utf-8"))
        self._load = time.perf_counter() - begun

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        return {
            "name": "openvino",
            "version": importlib.metadata.version("openvino"),
            "settings": self._settings,
            "load_s": self._load,
        }

    def answer(self, ids: Sequence[int], n: int) -> list[int]:
        """Greedily n ids; the argmax is part of the graph."""
        self._encoder.infer([np.array([ids], np.int64)], share_inputs=True)
        self._cross.infer([self._encoder.get_output_tensor(0)], share_inputs=True)
        for i, output in enumerate(self._cross.model_outputs):
            self._step.set_input_tensor(2 + i, self._cross.get_tensor(output))
        self._step.reset_state()
        token, answer = np.array([[self._start]], np.int64), []
        position = np.zeros(1, np.int64)
        for i in range(n):
            position[0] = i
            self._step.infer({0: token, 1: position}, share_inputs=True)
            token[0, 0] = self._step.get_output_tensor(0).data
            answer.append(int(token[0, 0]))
        return answer
