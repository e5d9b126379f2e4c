"""Runs trained at once on one frozen base, from their specs to their committed directories.

train_together:  each: dataset ─▶ base ─▶ method.prepare     all: fit ─▶ score     each: save ─▶ check ─▶ commit

Every run leaves the directory that it would leave alone, an ordinary PEFT adapter in it; its record says in which
cohort it trained. No state is kept on the way: a run that is interrupted begins anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loratory.engine.cohort import fit_cohort
from loratory.engine.course import Ended
from loratory.engine.epoch import Progress
from loratory.engine.fit import FitResult
from loratory.engine.hardware import Hardware
from loratory.engine.member_steps import Member, why_alone, why_none, why_unlike
from loratory.engine.meter import Meter, Phase
from loratory.engine.share import Alone, Share
from loratory.engine.together import predict_cohort
from loratory.errors import DivergedError, Interrupted
from loratory.estimating import estimate
from loratory.host_memory import available_memory
from loratory.inputs import Inputs
from loratory.interruption import Interruption
from loratory.outcome import failures_recorded, memory_errors
from loratory.run import run_id
from loratory.setup import Setup, prepare
from loratory.spec import RunSpec, TrainingSpec
from loratory.store.directory import claim, commit, read_run, staging
from loratory.store.record import Place, RunRecord
from loratory.written import better_of, epoch_scores, written

log = logging.getLogger("loratory")

SECONDS = 0.5
"""For how long steps are made alone, about, to know what such a run takes by itself."""

FILLED = 0.9
"""How much of the memory that is free a cohort is planned to take."""

UNCOUNTED = ("lr", "weight_decay", "warmup", "max_grad_norm", "patience", "keep", "select", "until")
"""Settings on which neither time nor memory of a step depends; the heaviest step is that of all epochs, made or not."""

_SPENT: tuple[Phase, ...] = ("train", "eval")
"""Of these a member has seconds of its own; what is left (a frozen bottom's pass, scoring) was for all."""


class ApartError(Exception):
    """These runs are not trained at once; each of them can be, alone.

    Attributes:
        places: which of them do not fit; none where it is all of them.
    """

    def __init__(self, why: str, *places: int) -> None:
        super().__init__(why)
        self.places = places


@dataclass(frozen=True)
class Wanted:
    """A run of a cohort: what :func:`loratory.run.train` takes of it."""

    spec: RunSpec
    output: Path
    place: Place | None = None
    keep_weights: bool = True


def train_together(wanted: Sequence[Wanted], inputs: Inputs) -> list[RunRecord]:
    """Train runs at once and commit each one's directory. One that diverges leaves its record, and the others go on.

    Returns:
        Their records, in order.

    Raises:
        ApartError: they do not fit together; nothing was trained.
        OutOfMemoryError: the device's memory does not suffice for all of them. Those that were committed are there.
        LoratoryError: as :func:`loratory.run.train`.
    """
    spec = wanted[0].spec
    hardware = Hardware.of(spec.hardware)
    alone = [alone_of(one.spec, inputs) for one in wanted]  # before there is anything else in memory
    meter = Meter(hardware)
    with ExitStack() as stack:
        for one in wanted:
            stack.enter_context(claim(one.output))
        with memory_errors(spec, hardware):
            setups, members = _prepared(wanted, hardware, inputs, meter)
            if (why := why_unlike(members)) is not None:
                raise ApartError(why)
            ended, engine, logits = _trained(setups, members, meter)
        shares = _shares(setups, ended, meter, alone)
        return [
            _left(one, setup, FitResult(end.history, end.best_epoch, engine), end.error, share, scored)
            for one, setup, end, share, scored in zip(wanted, setups, ended, shares, logits, strict=True)
        ]


def alone_of(spec: RunSpec, inputs: Inputs) -> Alone:
    """What the run `spec` takes by itself: an estimate from steps that are made now, alone, with random weights; what
    was found for another run that takes the same is used again.

    Raises:
        ApartError: the device's memory does not suffice for it alone.
        LoratoryError: data or model cannot be read.
    """
    free = {name: TrainingSpec.model_fields[name].default for name in UNCOUNTED}
    kind = spec.model_copy(update={"training": spec.training.model_copy(update=free), "seed": 0})
    if kind not in inputs.alone:
        inputs.alone[kind] = estimate(kind, inputs=inputs, seconds=SECONDS)
        Hardware.of(spec.hardware).free()
    found = inputs.alone[kind]
    if found.train_seconds is None or found.peak_memory_bytes is None or found.memory_parts_bytes is None:
        raise ApartError("alone its step does not fit into the device's memory")
    return Alone(
        bottom_seconds=(bottom := found.bottom_seconds or 0.0),
        step_seconds=(found.train_seconds - bottom) / found.steps,
        timed_steps=found.timed_steps,
        memory_kind=found.memory_kind,
        peak_bytes=found.peak_memory_bytes,
        parts_bytes=found.memory_parts_bytes,
    )


def fitting(alone: Sequence[Alone], shares: int = 1) -> int:
    """How many of these runs, from the first on, the free memory holds at once by their estimates; at least 1.

    Args:
        shares: into how many parts that memory is divided, of which they get one.
    """
    first = alone[0]
    cuda = first.memory_kind == "allocated"
    free = torch.cuda.mem_get_info()[0] if cuda else available_memory()
    left = FILLED * free / shares - first.parts_bytes["weights"]
    for count, one in enumerate(alone):
        left -= one.own_bytes
        if left < 0:
            return max(1, count)
    return len(alone)


def _prepared(
    wanted: Sequence[Wanted], hardware: Hardware, inputs: Inputs, meter: Meter
) -> tuple[list[Setup], list[Member]]:
    """All but the first have its frozen weights.

    Raises:
        ApartError: one of them trains in no cohort, or none does.
    """
    setups, members = list[Setup](), list[Member]()
    with meter.phase("setup"):
        for place, one in enumerate(wanted):
            first = setups[0] if setups else None
            setups.append(made := prepare(one.spec, hardware, inputs, one.place, beside=first))
            members.append(_member(made))
            if (why := why_none(members[-1], made.hardware)) is not None:
                raise ApartError(why)
            if (why := why_alone(members[-1])) is not None:
                raise ApartError(why, place)
            if made.trainable.starts or made.trainable.companion is not None:
                raise ApartError("its method does more than train what is free", place)
    return setups, members


def _member(setup: Setup) -> Member:
    training = setup.spec.training
    assert training.lr is not None
    return Member(
        setup.classifier, training, training.lr, setup.spec.seed, partial(epoch_scores, setup), better_of(setup),
        setup.trainable.rates,
    )  # fmt: skip


def _trained(
    setups: Sequence[Setup], members: Sequence[Member], meter: Meter
) -> tuple[list[Ended], dict[str, Any], list[dict[str, Tensor]]]:
    """How each one's training went, how steps were made, and each one's logits of the parts that are scored."""
    first, interruption = setups[0], Interruption()

    def on_step(progress: Progress) -> None:
        if interruption.number is not None:
            raise Interrupted(interruption.number, "in a cohort, whose runs begin anew with the same command")

    tokens, hardware = first.tokens, first.hardware
    log.info("%d runs train at once, from %s on", len(setups), run_id(first.spec, first.fingerprint))
    meter.start_memory()
    with interruption.awaited():
        ended, engine = fit_cohort(
            members, tokens["train"], tokens["validation"], hardware=hardware, meter=meter, on_step=on_step
        )
    meter.stop_memory()
    step = len(members) * first.spec.training.batch_size * float(tokens["train"].tokens.lengths.mean())
    trained = 0 if "frozen_bottom" in engine else int(step)  # of heads alone, steps never reach the encoder
    with meter.phase("eval"):
        parts = {part: tokens[part] for part in first.scored}
        logits = predict_cohort(members, parts, hardware=hardware, trained=trained)
    return ended, engine, logits


def _shares(setups: Sequence[Setup], ended: Sequence[Ended], meter: Meter, alone: Sequence[Alone]) -> list[Share]:
    names = [run_id(setup.spec, setup.fingerprint) for setup in setups]
    cohort = hashlib.sha256("\n".join(sorted(setup.fingerprint for setup in setups)).encode()).hexdigest()[:12]
    cost, count, texts = meter.record(), len(setups), setups[0].tokens["train"].tokens
    common = {phase: (meter.seconds[phase] - sum(end.spent[phase] for end in ended)) / count for phase in _SPENT}
    return [
        Share(
            name=cohort,
            members=names,
            alone=one,
            seconds={
                "setup": meter.seconds["setup"] / count,
                "checkpoint": 0.0,
                **{phase: end.spent[phase] + common[phase] for phase in _SPENT},
            },
            peak=cost["peak_memory_bytes"],
            steps=end.history[-1]["step"],
            examples=len(end.history) * len(texts.lengths),
            tokens=len(end.history) * int(texts.lengths.sum()),
            resident_measured=cost["resident_measured"],
        )
        for end, one in zip(ended, alone, strict=True)
    ]


def _left(
    wanted: Wanted,
    setup: Setup,
    result: FitResult,
    fault: DivergedError | None,
    share: Share,
    logits: dict[str, Tensor],
) -> RunRecord:
    """Commit what a run leaves; the record of one that diverged, of a `fault`."""
    name = run_id(setup.spec, setup.fingerprint)
    for row in result.history:
        row["train_seconds"] = share.alone.train_seconds(row["step"])
    try:
        with failures_recorded(setup, share, name, wanted.output):
            if fault is not None:
                raise fault
            with staging(wanted.output) as stage:
                record = written(setup, share, name, stage, result, logits, wanted.keep_weights)
                commit(stage, wanted.output)
                return record
    except DivergedError:
        return read_run(wanted.output)
