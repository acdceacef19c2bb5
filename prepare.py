"""From an opened checkpoint and a request to everything that is known before a tensor is loaded.

`load`, `miaotui inspect` and whoever else asks what a model will be share it, so that they cannot disagree. The plan is
compiled once and the program recorded once, with weights that are only planned; `load` binds it to real ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .dataclass import dataclass
from .errors import BackendError
from .limits import ENCODER_CHUNK, LOGIT_ROWS, PREFILL_CHUNK, USUAL_BEAMS, Request, check_memory, predicted_memory
from .loader.load_plan import make_load_plan
from .loader.pack import planned
from .loader.prune.options import select
from .loader.prune.receipt import make_receipt
from .loader.prune.stored_zeros import counted, uncounted
from .runtime.forward.supported import check_backend
from .runtime.lora import with_adapters
from .runtime.recorder.record import record

if TYPE_CHECKING:
    from .loader.apart import Apart
    from .loader.lending import Lender
    from .loader.load_plan import LoadPlan
    from .loader.open import Opened
    from .loader.prune.options import Prune
    from .loader.prune.plan import PrunePlan
    from .loader.prune.receipt import Receipt
    from .runtime.program import Program
    from .runtime.spec import Config, Weights

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be loaded: which bytes become which weight, the program of a step, and what it takes.

    `prune` has every index named. `program` is of planned weights. `memory`: bytes by part (`predicted_memory`).
    """

    opened: Opened
    request: Request
    prune: PrunePlan
    plan: LoadPlan
    program: Program
    memory: dict[str, int]
    receipt: Receipt
    apart: Apart | None = None  # adapters that are kept apart

    @property
    def config(self) -> Config:
        """The model that is left."""
        return self.plan.config


def prepare(
    opened: Opened,
    request: Request,
    *,
    free: int | None = None,
    part: Prune | None = None,
    lender: Lender | None = None,
) -> Prepared:
    """Plan the load, record the program and predict the memory; `free`: what the GPU has, where one is asked for.

    `part`: a plan whose model is to draft. Where it leaves the first layers, the program has them as its early exit.
    `lender`: the model that this one drafts for, as a part of it.

    Tensors are read where only their data say what stays: for a share of neurons or width the matrices that rank them,
    for sparsity "stored" those whose zeros are counted. That comes after a first check of the memory limit, in which
    what is not known yet counts as needing nothing. Errors: `PlanError`, `CheckpointError`, `InputError`,
    `MemoryLimitError`.
    """
    chosen = select(request.prune, opened)
    plan = _borrowed(lender, make_load_plan(opened, request.quantize, chosen.cut))
    apart = _apart(request, opened, plan)
    early = 0
    if part is not None:
        from .loader.prune.first import first_layers  # noqa: PLC0415 - few need it

        early = first_layers(part, plan.cut, opened)
    beams = 1 if request.gpu else opened.generation.get("num_beams", 1)
    program = _recorded(plan, request, apart, early, beams)
    memory = predicted_memory(plan, program, request.device, apart.nbytes if apart else 0, opened.checkpoint.copied)
    name, limit = opened.directory.name, request.limit_bytes
    unsure = sum(source.nbytes for source in uncounted(plan) if source.offset is not None)
    check_memory(name, limit, memory, program, free=free, unsure=unsure)
    if chosen.ranks or uncounted(plan):  # only now is anything read
        dtypes = [source.dtype for source in plan]
        if chosen.ranks:
            chosen = chosen.ranked(opened)
            plan = make_load_plan(opened, request.quantize, chosen.cut)
        plan = _borrowed(lender, counted(plan, opened.checkpoint))
        apart = _apart(request, opened, plan)
        same = [source.dtype for source in plan] == dtypes  # not where counted zeros make it another kernel's
        program = program.bound(_planned(plan, apart)) if same else _recorded(plan, request, apart, early, beams)
        memory = predicted_memory(plan, program, request.device, apart.nbytes if apart else 0, opened.checkpoint.copied)
        check_memory(name, limit, memory, program, free=free)
    notes = (*request.notes(plan.config), *(apart.lines if apart else ()))
    receipt = replace(make_receipt(plan, opened, chosen.plan, notes=notes), precision=program.roundings)
    return Prepared(opened, request, chosen.plan, plan, program, memory, receipt, apart)


def _borrowed(lender: Lender | None, plan: LoadPlan) -> LoadPlan:
    return plan if lender is None else lender.borrowed(plan)


def _apart(request: Request, opened: Opened, plan: LoadPlan) -> Apart | None:
    if not request.adapters and not request.adapter_slots:
        return None
    from .loader.apart import read_apart  # noqa: PLC0415 - few need it

    return read_apart(request, opened, plan)


def _planned(plan: LoadPlan, apart: Apart | None) -> Weights:
    """Every weight with its shape, and those of adapters."""
    return planned(plan) if apart is None else with_adapters(planned(plan), apart.names, apart.planned())


def _recorded(plan: LoadPlan, request: Request, apart: Apart | None, early: int, beams: int) -> Program:
    """The program of a step; no weight has an address yet. Errors: `BackendError`.

    `early`: as of `record`; `beams`: that the model's files ask for.
    """
    context = request.context(plan.config)
    if request.gpu and plan.config.encoder is not None:
        what = f"{plan.config.family} is {plan.config.kind}"
        msg = f"device='cuda': {what}, which the CUDA path cannot run yet; use device='cpu'"
        raise BackendError(msg)
    if plan.config.decoder is None:
        return _whole(plan, request, context, apart)
    chunk = min(request.prefill_chunk or PREFILL_CHUNK[request.device], context)
    program = record(
        plan.config,
        _planned(plan, apart),
        n_context=context,
        chunk=chunk,
        n_logits=min(LOGIT_ROWS, chunk),
        threads=1 if request.gpu else request.n_threads,  # a GPU's scratch is that of one
        kv_cache=request.kv_cache,
        precision=request.rounding,
        n_pages=request.n_pages(context, beams=max(USUAL_BEAMS if plan.config.seq2seq else 1, beams)),
        n_encoded_pages=request.n_pages(context) if plan.config.seq2seq else None,
        paged=not request.gpu,
        early=early,
    )
    check_backend(program, plan.config.family, "cuda" if request.gpu else "cpu")
    return program


def _whole(plan: LoadPlan, request: Request, context: int, apart: Apart | None) -> Program:
    """The program of a pass of whole texts, the longest of which fits."""
    return record(
        plan.config,
        _planned(plan, apart),
        n_context=context,
        chunk=request.prefill_chunk or ENCODER_CHUNK,
        n_logits=LOGIT_ROWS,
        threads=request.n_threads,
        kv_cache=request.kv_cache,
        precision=request.rounding,
    )
