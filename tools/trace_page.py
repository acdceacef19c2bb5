"""A trace as one page of HTML that needs nothing else: steps, what each layer would say, attention, program, arena."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, TokenizerError
from ..runtime.traced import ATTENTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from ..model import Model
    from ..runtime.arena import Tensor
    from ..runtime.program import Program
    from ..tracing import Trace

__all__ = ["page"]

#: Tokens of which attention is drawn, and what each layer says is shown: more do not fit a screen.
SHOWN = 64
STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}h3{font-size:1rem;margin:1rem 0 .3rem}
.wide{overflow:auto;max-height:40rem;border:1px solid #8886;border-radius:4px}
table{border-collapse:collapse;font-size:13px}th,td{padding:.15rem .6rem;text-align:left;white-space:pre}
td.n{text-align:right;font-variant-numeric:tabular-nums}th{position:sticky;top:0;background:Canvas}
tr:nth-child(even){background:#8881}
td.same{font-weight:600}
.heads{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;font-size:12px}
figure img{width:9rem;height:9rem;image-rendering:pixelated;border:1px solid #8886;display:block}
pre{font-size:12px;margin:0;padding:.6rem}svg{background:#8881}
svg text{font:10px sans-serif;fill:CanvasText}
.kv_cache{fill:#b5651d}.activations{fill:#3b6ea5}.scratch{fill:#8a97a5}.other{fill:#5a8f4f}
"""


def page(model: Model, trace: Trace) -> str:
    """The page of a text's trace."""
    tokens = [_spelled(model, token) for token in trace.ids]
    program = model.program()
    parts = [
        f"<h1>{escape(repr(model))}</h1>",
        f"<p>{len(tokens)} tokens: {' '.join(f'<code>{escape(t)}</code>' for t in tokens)}</p>",
        *_layers(model, trace, tokens),
        *_attention(trace, tokens),
        f"<h2>Steps</h2><p>{_how(trace)}</p>",
        _table(("step", "shape", "rms", "largest"), _steps(trace)),
        "<h2>Arena</h2><p>Each box is a tensor: from the instruction that writes it to the last that reads it.</p>",
        f'<div class="wide">{_arena(program)}</div>',
        f'<h2>Program</h2><div class="wide"><pre>{escape(chr(10).join(program.listing()))}</pre></div>',
    ]
    head = f'<meta charset="utf-8"><title>{escape(repr(model))}: trace</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _how(trace: Trace) -> str:
    by_kernels = any(x.dtype == np.float32 for x in trace.values())
    return "In float32, by the kernels." if by_kernels else "In float64, with nothing rounded but the weights."


def _spelled(model: Model, token: int) -> str:
    """A token as its text, or its id where there is no tokenizer; "NaN" for none, where a logit is."""
    if token < 0:
        return "NaN"
    try:
        text = model.tokenizer.decode([token], skip_special_tokens=False)
    except (TokenizerError, InputError):
        return str(token)
    return text.replace("\n", "\\n") or str(token)


def _layers(model: Model, trace: Trace, tokens: list[str]) -> Iterator[str]:
    try:
        said = model.layer_ids(trace)
    except InputError:
        return
    yield "<h2>What each layer would say</h2><p>The likeliest next token, were it the last; bold: as the last says.</p>"
    last = list(said.values())[-1][:SHOWN]
    head = "".join(f"<th>{escape(t)}</th>" for t in ["layer", *tokens[:SHOWN]])
    rows = "".join(
        f"<tr><td>{escape(layer)}</td>"
        + "".join(
            f"<td{' class=same' if token == final else ''}>{escape(_spelled(model, token))}</td>"
            for token, final in zip(ids[:SHOWN], last, strict=True)
        )
        + "</tr>"
        for layer, ids in said.items()
    )
    yield f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>{_cut(tokens)}'


def _attention(trace: Trace, tokens: list[str]) -> Iterator[str]:
    every = {name.removesuffix(ATTENTION): x for name, x in trace.items() if ATTENTION in name}
    if every:
        yield "<h2>Attention</h2><p>Rows are queries, columns keys, from the first; the darker, the more.</p>"
    for layer, heads in every.items():
        drawn = "".join(
            f'<figure><img alt="{escape(layer)}, head {i}" src="data:image/png;base64,{_png(x[:SHOWN, :SHOWN])}">'
            f"<figcaption>head {i}</figcaption></figure>"
            for i, x in enumerate(heads)
        )
        yield f'<h3>{escape(layer)}</h3><div class="heads">{drawn}</div>'
    if every:
        yield _cut(tokens)


def _cut(tokens: list[str]) -> str:
    return f"<p>The first {SHOWN} of {len(tokens)} tokens.</p>" if len(tokens) > SHOWN else ""


def _png(weights: NDArray[np.float64]) -> str:
    """0 white, 1 black, as an 8-bit grey PNG (ISO/IEC 15948), in base64."""
    grey = np.rint(255 * (1 - np.clip(np.nan_to_num(weights), 0, 1))).astype(np.uint8)
    rows, columns = grey.shape
    data = np.zeros((rows, columns + 1), np.uint8)  # a row begins with its filter: none
    data[:, 1:] = grey

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    whole = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(data.tobytes())) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + whole).decode()


def _steps(trace: Trace) -> Iterator[tuple[str, str, str, str]]:
    for name, of in trace.as_dict()["arrays"].items():
        yield name, " x ".join(map(str, of["shape"])), f"{of['rms']:.4g}", f"{of['max']:.4g}"


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    heads = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join(
        f"<tr><td>{escape(first)}</td>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table><tr>{heads}</tr>{body}</table></div>'


def _arena(program: Program) -> str:
    """Instructions from left to right, bytes from top to bottom."""
    wide, high, n = 1000, 420, max(len(program.code), 1)
    total = max(program.arena_bytes, 1)

    def box(t: Tensor) -> str:
        x, w = wide * t.born / n, max(wide * (t.dies - t.born + 1) / n, 1)
        y, h = high * t.offset / total, max(high * t.nbytes / total, 0.5)
        kind = t.part if t.part in {"kv_cache", "activations", "scratch"} else "other"
        told = f"{t.name}: {t.nbytes:,} bytes at {t.offset:,}, instructions {t.born} to {t.dies}"
        where = f'x="{x:.1f}" y="{y:.1f}" width="{min(w, wide - x):.1f}" height="{h:.1f}"'
        return f'<rect class="{kind}" opacity=".75" {where}><title>{escape(told)}</title></rect>'

    boxes = "".join(box(t) for t in program.tensors if t.offset is not None)
    kinds = "".join(
        f'<rect class="{kind}" x="{170 * i}" y="{high + 12}" width="10" height="10"/>'
        f'<text x="{170 * i + 15}" y="{high + 21}">{kind.replace("_", " ")}</text>'
        for i, kind in enumerate(("kv_cache", "activations", "scratch", "other"))
    )
    told = f'<text x="{wide - 220}" y="{high + 21}">{total:,} bytes, {n} instructions</text>'
    return (
        f'<svg viewBox="0 0 {wide} {high + 30}" width="{wide}" role="img" aria-label="arena">{boxes}{kinds}{told}</svg>'
    )
