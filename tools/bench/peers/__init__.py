"""The engines that we are measured against, each with one protocol (`worker`), each in its own interpreter.

A peer is one module of this folder with PACKAGES (what its interpreter needs), DTYPES (our name of a dtype -> what the
engine calls its nearest), `convert(model, out, dtype)` where the engine does not load a Hugging Face directory itself,
and `Engine(path, dtype, threads, context)`. Its packages are imported inside of these, so that our side can ask what a
peer can do. Nothing here imports miaotui.
"""

from __future__ import annotations

__all__ = ["BATCHED_PEERS", "ENCODER_PEERS", "EVERY", "GPU_PEERS", "PEERS", "SEQ2SEQ_PEERS"]

#: the peer's name -> its module
PEERS = {
    "llama.cpp": "llamacpp",
    "torch": "eager",
    "openvino": "stateful",
    "ctranslate2": "ct2",
    "onnxruntime-genai": "genai",
    "llama2.c": "llama2c",
}
#: those that our CUDA path is measured against (`bench_cuda`)
GPU_PEERS = {
    "transformers": "gpu",
    "torch.compile": "gpu_compiled",
    "torch.matmul": "gpu_product",
}
#: those that encoders and encoder-decoders are measured against (`tools.bench.encoders`)
ENCODER_PEERS = {
    "onnxruntime.encoder": "encoder_ort",
    "openvino.encoder": "encoder_ov",
    "ctranslate2.encoder": "encoder_ct2",
}
SEQ2SEQ_PEERS = {
    "openvino.seq2seq": "seq2seq_ov",
    "ctranslate2.seq2seq": "seq2seq_ct2",
}
#: those that decode several sequences in one pass (`tools.bench.engine`)
BATCHED_PEERS = {
    "llama.cpp.batch": "llamacpp_batch",
    "llama-server": "llamaserver",
}
EVERY = PEERS | GPU_PEERS | ENCODER_PEERS | SEQ2SEQ_PEERS | BATCHED_PEERS
