"""The roles that a weight can have, in one table; every other list of roles is a comprehension over it.

A role belongs to the model (`sublayer` "") or to a sublayer of each layer. Its axes are named, and the same name is the
same axis wherever it stands: cutting one neuron takes a row of gate and up and a column of down. So a cut is a set of
indices for each axis of (stack, layer, sublayer), and no role needs code of its own. A plan of version 1 knows one
stack, `Config.stack`, and in each layer one attention to its own tokens and one feed-forward (`OWN`). An encoder that a
decoder reads has the same roles, as a model of its own (`Config.encoding`).

| axis     | belongs to   | elements                               |
|----------|--------------|----------------------------------------|
| vocab    | model        | token ids                              |
| width    | model        | dimensions of the residual stream      |
| context  | model        | positions                              |
| types    | model        | token types                            |
| embed    | model        | dimensions of the embedding (`EMBED`)  |
| pooled   | model        | what a head reads, after a product     |
| labels   | model        | what it gives, where that is no vocabulary |
| buckets  | model        | classes of distances                   |
| biased   | model        | heads to whose scores a table adds     |
| own_biased | attention  | the same, of a table of the layer's own |
| distances | model       | rows of a table of query - key         |
| taps     | model        | dimensions of the residual stream, each at every tap of a convolution |
| source   | encoder      | dimensions of its residual stream      |
| heads    | attention    | n_heads x d_head                       |
| kv_heads | attention    | n_kv_heads x d_head                    |
| head     | attention    | d_head                                 |
| ffn      | feed_forward | neurons; of experts, those of each     |
| one      | feed_forward | a number                               |
| experts  | experts      | experts                                |
| shared   | experts      | neurons of the expert that all tokens pass |
| mix      | experts      | one: by how much that expert counts    |
| cross_heads, cross_kv_heads | cross_attention | as heads, of the attention to the encoder |
"""

from __future__ import annotations

from typing import Literal

from ..dataclass import dataclass

__all__ = [
    "ATTENTION",
    "AXES",
    "CROSS",
    "EACH",
    "EMBED",
    "EXPERTS",
    "FEED_FORWARD",
    "LINEAR",
    "MATRICES",
    "PLACES",
    "READS",
    "ROLES",
    "WRITERS",
    "Role",
    "expert_key",
    "expert_of",
    "in_plans",
    "role_of",
]

ATTENTION, FEED_FORWARD, CROSS = "attention", "feed_forward", "cross_attention"
#: What a feed-forward of experts has in place of gate, up and down.
EXPERTS = "experts"
OWN = (ATTENTION, FEED_FORWARD)
Kind = Literal["matrix", "table", "norm", "number", "bias"]


@dataclass(frozen=True)
class Role:
    """One row.

    `kind`: a matrix is multiplied, of a table rows are looked up; norm, number and bias are vectors. `axes`: [out, in]
    of a matrix. `field`: where it lies in the records: a name of `Sublayer.linear` or `.numbers`, or of a field (norms,
    tables); a bias lies with its matrix or norm. `reads`: the norm whose output a matrix takes. `place`: what flows
    into it (where statistics are taken). `writes`: it adds to the residual stream. `always`: every model that has the
    sublayer has it.
    `each`: one for each of a layer's experts, under the key "experts.3.expert_up" (`expert_key`).
    """

    name: str
    sublayer: str
    kind: Kind
    axes: tuple[str, ...]
    field: str
    reads: str | None = None
    place: str | None = None
    writes: bool = False
    always: bool = True
    each: bool = False


_A, _F, _X, _E = ATTENTION, FEED_FORWARD, CROSS, EXPERTS
# fmt: off
_ROWS = (
    Role("embed", "", "matrix", ("vocab", "width"), "embed", writes=True),
    Role("head", "", "matrix", ("vocab", "width"), "head", reads="norm", always=False),
    Role("head_dense", "", "matrix", ("pooled", "width"), "head_dense", always=False),
    Role("head_norm", "", "norm", ("pooled",), "head_norm", always=False),
    Role("classifier", "", "matrix", ("labels", "pooled"), "head", always=False),
    Role("embed_project", "", "matrix", ("width", "embed"), "embed_project", always=False),
    Role("positions", "", "table", ("context", "width"), "positions", writes=True, always=False),
    Role("token_types", "", "table", ("types", "width"), "token_types", writes=True, always=False),
    Role("embed_norm", "", "norm", ("width",), "embed_norm", always=False),
    Role("norm", "", "norm", ("width",), "norm", always=False),
    Role("biases", "", "table", ("buckets", "biased"), "biases", always=False),
    Role("relative", "", "table", ("distances", "width"), "relative", always=False),
    Role("relative_norm", "", "norm", ("width",), "relative_norm", always=False),
    Role("convolution", "", "matrix", ("width", "taps"), "convolution", always=False),
    Role("convolution_norm", "", "norm", ("width",), "convolution_norm", always=False),
    Role("attn_norm", _A, "norm", ("width",), "norm_in", always=False),
    Role("attn_norm_out", _A, "norm", ("width",), "norm_out", always=False),
    Role("attn_norm_sum", _A, "norm", ("width",), "norm_sum", always=False),
    Role("q", _A, "matrix", ("heads", "width"), "q", reads="attn_norm", place="attn_in"),
    Role("k", _A, "matrix", ("kv_heads", "width"), "k", reads="attn_norm", place="attn_in"),
    Role("v", _A, "matrix", ("kv_heads", "width"), "v", reads="attn_norm", place="attn_in"),
    Role("o", _A, "matrix", ("width", "heads"), "o", place="attn_out", writes=True),
    Role("pos_k", _A, "matrix", ("heads", "width"), "pos_k", always=False),
    Role("pos_q", _A, "matrix", ("kv_heads", "width"), "pos_q", always=False),
    Role("own_bias", _A, "table", ("buckets", "own_biased"), "bias", always=False),
    Role("q_norm", _A, "norm", ("head",), "norm_q", always=False),
    Role("k_norm", _A, "norm", ("head",), "norm_k", always=False),
    Role("q_norm_whole", _A, "norm", ("heads",), "norm_q", always=False),
    Role("k_norm_whole", _A, "norm", ("kv_heads",), "norm_k", always=False),
    Role("cross_norm", _X, "norm", ("width",), "norm_in", always=False),
    Role("cross_norm_sum", _X, "norm", ("width",), "norm_sum", always=False),
    Role("cross_q", _X, "matrix", ("cross_heads", "width"), "q", reads="cross_norm", place="cross_in"),
    Role("cross_k", _X, "matrix", ("cross_kv_heads", "source"), "k", place="source"),
    Role("cross_v", _X, "matrix", ("cross_kv_heads", "source"), "v", place="source"),
    Role("cross_o", _X, "matrix", ("width", "cross_heads"), "o", place="cross_out", writes=True),
    Role("ffn_norm", _F, "norm", ("width",), "norm_in", always=False),
    Role("ffn_norm_out", _F, "norm", ("width",), "norm_out", always=False),
    Role("ffn_norm_sum", _F, "norm", ("width",), "norm_sum", always=False),
    Role("gate", _F, "matrix", ("ffn", "width"), "gate", reads="ffn_norm", place="ffn_in", always=False),
    Role("up", _F, "matrix", ("ffn", "width"), "up", reads="ffn_norm", place="ffn_in"),
    Role("down", _F, "matrix", ("width", "ffn"), "down", place="ffn_out", writes=True),
    *(Role(f"act_{x}", _F, "number", ("one",), x, always=False) for x in ("p", "n", "beta", "eps")),
    Role("router", _E, "matrix", ("experts", "width"), "router", reads="ffn_norm"),
    Role("expert_gate", _E, "matrix", ("ffn", "width"), "gate", "ffn_norm", "ffn_in", always=False, each=True),
    Role("expert_up", _E, "matrix", ("ffn", "width"), "up", "ffn_norm", "ffn_in", each=True),
    Role("expert_down", _E, "matrix", ("width", "ffn"), "down", place="ffn_out", writes=True, each=True),
    Role("shared_gate", _E, "matrix", ("shared", "width"), "shared_gate", "ffn_norm", "ffn_in", always=False),
    Role("shared_up", _E, "matrix", ("shared", "width"), "shared_up", "ffn_norm", "ffn_in", always=False),
    Role("shared_down", _E, "matrix", ("width", "shared"), "shared_down", place="shared", writes=True, always=False),
    Role("shared_mix", _E, "matrix", ("mix", "width"), "shared_mix", reads="ffn_norm", always=False),
)
# fmt: on


def _bias(role: Role) -> Role:
    """A norm's or a matrix's bias: a vector along its outputs, in the same record."""
    return Role(f"{role.name}_bias", role.sublayer, "bias", role.axes[:1], role.field, always=False)


#: Name -> role; a layer's biases are named after their matrix or norm: "q_bias".
ROLES = {role.name: role for role in _ROWS}
#: The model's own that may have a bias, besides every norm; and so may the matrices of sublayers.
_BIASED = ("head", "head_dense", "classifier", "embed_project", "convolution")
_BIASES = (x for x in _ROWS if (x.sublayer or x.kind == "norm" or x.name in _BIASED) and x.kind != "number")
ROLES |= {role.name: role for role in map(_bias, _BIASES)}

#: Roles whose width is the embedding's own, in a model that has one (`sizes.role_axes`).
EMBED = ("embed", "head", "positions", "token_types", "embed_norm", "embed_norm_bias")
#: Role -> the axes of its weight.
AXES = {role.name: role.axes for role in ROLES.values()}
#: Matrices of a layer that plans name, in the order in which they are told: those that a step's tokens flow into.
LINEAR = tuple(role.name for role in _ROWS if role.kind == "matrix" and role.sublayer in OWN and role.place)
#: What chooses experts: a rounded one sends a token to others, which is another text at once.
CHOOSERS = ("router", "shared_mix")
#: Every matrix that can be quantised. A tied head is the embedding.
MATRICES = tuple(role.name for role in _ROWS if role.kind == "matrix" and role.name not in CHOOSERS)
#: A matrix -> the norm that it reads.
READS = {r.name: r.reads for r in _ROWS if r.reads is not None and r.sublayer not in (CROSS, EXPERTS)}
#: Roles of a layer that write to the residual stream.
WRITERS = tuple(role.name for role in _ROWS if role.writes and role.sublayer in OWN)
#: Roles of which every expert has its own.
EACH = tuple(role.name for role in _ROWS if role.each)


def expert_key(role: str, number: int) -> str:
    """A role of one expert, where a layer's weights are listed: "experts.3.expert_up"."""
    return f"{EXPERTS}.{number}.{role}"


def role_of(key: str) -> str:
    """The role of a layer's key: "expert_up"."""
    return key.rpartition(".")[2]


def expert_of(key: str) -> int | None:
    """The expert's number in a layer's key."""
    return int(key.split(".")[1]) if "." in key else None


def in_plans(key: str) -> str:
    """What a plan calls a matrix, by its layer's key: q of both attentions, up of every expert and the shared one."""
    role = ROLES[role_of(key)]
    return role.field.removeprefix("shared_") if role.sublayer and role.kind == "matrix" else role.name


#: A layer's matrix -> what flows into it; of an expert's, from the tokens that go to it.
PLACES = {role.name: role.place for role in _ROWS if role.place is not None}
