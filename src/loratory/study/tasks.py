"""What an executor carries out in one go: a run alone, or several of one base as a cohort.

waiting runs ─▶ those that can share a base with the first ─▶ a task ─▶ as many at once as memory allows, or alone
"""

from __future__ import annotations

import traceback
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from loratory.cohorts import ApartError, Wanted, alone_of, fitting, train_together
from loratory.engine.hardware import Hardware
from loratory.engine.member_steps import ATTENTION_DROPS, COMMON
from loratory.errors import LoratoryError, OutOfMemoryError, ResourceError, SettingsError, StorageError, first_line
from loratory.inputs import Inputs
from loratory.methods import in_common, method_named
from loratory.store.checkpoints import has_any
from loratory.store.directory import glance
from loratory.study.jobs import Job, Outcome, carry_out, leave_failure, not_as_planned, stopped

MOST = 16
"""Members of a cohort at most, where nobody says how many."""


@dataclass(frozen=True)
class Cohorts:
    """Which runs are trained at once.

    Attributes:
        most: of a cohort; 1 for none.
        finals: whether final runs are, too, or only those that choose a rate.
    """

    most: int = 1
    finals: bool = False

    @classmethod
    def read(
        cls, said: str | None, *, cuda: bool, alone: bool = False, tracked: bool = False, kept: bool = False
    ) -> Cohorts:
        """What `--cohort` says: `off`, `auto`, or a number.

        `auto` lets tuning runs share a base on CUDA, where one leaves most of the device idle. Final runs stay alone:
        what a method costs is read from them. A tracker follows each run's steps, and states are kept of each run on
        the way: a cohort has neither, and where one of these is asked for there are none.

        Args:
            alone, tracked, kept: whether final runs are to be alone on their device, whether trackers follow the runs,
                and whether it was said how often states are kept.

        Raises:
            SettingsError: none of these, or against another flag.
        """
        if said is None or said == "auto":
            return cls(MOST) if cuda and not tracked and not kept else cls()
        if said == "off":
            return cls()
        if not said.isascii() or not said.isdecimal() or int(said) < 2:
            raise SettingsError(f"--cohort {said}: give off, auto, or how many runs at once, 2 or more")
        if alone:
            raise SettingsError(f"--cohort {said}: final runs would share a device; leave --alone out, or give auto")
        if tracked:
            raise SettingsError(f"--cohort {said}: a tracker follows runs that are trained alone; leave one out")
        if kept:
            raise SettingsError(f"--cohort {said}: of runs that train at once no states are kept; leave one out")
        return cls(int(said), finals=True)


NONE = Cohorts()


@dataclass(frozen=True)
class Task:
    """Runs that are carried out in one go.

    Attributes:
        at_once: how many tasks their device has under way at once; None where nobody knows.
    """

    jobs: tuple[Job, ...]
    at_once: int | None = None

    @property
    def name(self) -> str:
        """The first run's id: no other task under way has it."""
        return self.jobs[0].id


@dataclass(frozen=True)
class Done:
    """A task that ended, and how its runs did; after one that stops the study, no further ones.

    Attributes:
        apart: why those of its runs that have no outcome are to be carried out alone.
    """

    task: Task
    outcomes: Sequence[Outcome]
    apart: str | None = None

    @property
    def again(self) -> list[Job]:
        """Its runs that are to be carried out alone."""
        if self.apart is None:
            return []
        told = {outcome.job.id for outcome in self.outcomes}
        return [
            replace(job, place=replace(job.place, apart=self.apart)) for job in self.task.jobs if job.id not in told
        ]


NO_OTHER = "no other run was left that shares base and settings with it"
SLOTS = "there was a slot for each run like it"
"""Why a run that could train in a cohort trains alone."""


def gathered(waiting: Sequence[Job], cohorts: Cohorts, slots: int) -> list[Job]:
    """The first of the waiting runs, and those that can be trained at once with it: of all like it an even part, that
    leaves none over alone; fewer than there could be where other slots would be left without any. Where cohorts were
    asked for, one that is alone says why.
    """
    first = waiting[0]
    if cohorts.most < 2 or first.place.apart is not None or (first.place.stage == "final" and not cohorts.finals):
        return [first]
    if (why := _why_none(first)) is None:
        shared = _shared(first)
        like = [job for job in waiting if job.place.apart is None and _why_none(job) is None and _shared(job) == shared]
        most = max(1, min(cohorts.most, -(-len(like) // slots)))
        even = -(-len(like) // -(-len(like) // most))
        if even > 1:
            return like[:even]
        why = NO_OTHER if len(like) == 1 else SLOTS
    return [replace(first, place=replace(first.place, apart=why)) if cohorts.finals else first]


def _why_none(job: Job) -> str | None:
    """Why a run shares its base with none; None where it can."""
    method, training = job.spec.method, job.spec.training
    if training.quantize != "off":
        return "its base is held in fewer bits"
    if in_common(method_named(method.name), method) is None:
        return f"{method.name}, as it is set, does not train beside others on one base"
    return ATTENTION_DROPS if training.attention_dropout > 0 else None


def _shared(job: Job) -> Hashable:
    """What runs of one cohort have in common."""
    spec = job.spec
    common = in_common(method_named(spec.method.name), spec.method)
    settings = tuple(getattr(spec.training, name) for name in COMMON)
    return spec.model, spec.data, spec.hardware, spec.method.name, common, settings, job.place.stage


def carry_out_task(task: Task, inputs: Inputs) -> Done:
    """Carry out a task's runs: as many at once as memory allows, each alone where they do not fit together."""
    outcomes: list[Outcome] = []
    for outcome in _together(task.jobs, inputs, task.at_once or 1):
        outcomes.append(outcome)
        if outcome.stops is not None:
            break
    return Done(task, outcomes)


def given_up(task: Task, message: str, inputs: Inputs) -> Done:
    """How a task of one run ended whose process was lost too often."""
    (job,) = task.jobs
    try:
        return Done(task, [Outcome(job, leave_failure(job, message, inputs))])
    except StorageError as error:
        return Done(task, [Outcome(job, None, stops=error)])


def _alone(
    jobs: Sequence[Job], inputs: Inputs, why: str | None = None, traces: tuple[str, ...] = ()
) -> Iterator[Outcome]:
    """Carry out runs one after the other; those that were to be in a cohort say why they were in none, and where it
    failed if it did.
    """
    for job in jobs:
        outcome = carry_out(job if why is None else replace(job, place=replace(job.place, apart=why)), inputs)
        yield replace(outcome, traces=traces + outcome.traces)


def _together(jobs: Sequence[Job], inputs: Inputs, shares: int) -> Iterator[Outcome]:
    """Carry out runs at once. Those that exist, or have a checkpoint to go on from, are left to themselves.

    Args:
        shares: into how many parts the device's memory is divided, of which they get one.
    """
    if len(jobs) == 1:
        yield from _alone(jobs, inputs)
        return
    begun = [job for job in jobs if glance(job.output) is not None or has_any(job.output)]
    yield from _alone(begun, inputs)
    anew = [job for job in jobs if job not in begun]
    if len(anew) < 2:
        yield from _alone(anew, inputs)
        return
    parts, unfit, apart, traces = [anew], list[Job](), "", tuple[str, ...]()
    try:
        for job in anew:
            if (otherwise := not_as_planned(job, inputs)) is not None:
                yield Outcome(job, None, stops=otherwise)
                return
        Hardware.of(anew[0].spec.hardware).free()  # what torch keeps of the cohort before is not taken
        count = fitting([alone_of(job.spec, inputs) for job in anew], shares)
        if count == len(anew):
            wanted = [Wanted(job.spec, job.output, job.place, job.keep_weights) for job in anew]
            found = train_together(wanted, inputs)
            yield from (Outcome(job, record) for job, record in zip(anew, found, strict=True))
            return
        parts = [anew[:count], anew[count:]]
    except OutOfMemoryError:
        parts = [anew[: len(anew) // 2], anew[len(anew) // 2 :]]
    except (StorageError, ResourceError) as error:  # the next run would meet it too
        yield stopped(anew, error)
        return
    except ApartError as error:
        unfit, apart = [anew[place] for place in error.places or range(len(anew))], str(error)
        parts = [[job for job in anew if job not in unfit]]
    except LoratoryError as error:  # one that fails by itself says so alone
        parts, unfit, apart, traces = [], anew, first_line(error), (traceback.format_exc(),)
    except Exception as error:  # noqa: BLE001  # a defect in the cohorts' way ends no run, and is told
        parts, unfit, traces = [], anew, (traceback.format_exc(),)
        apart = f"training at once stopped with {type(error).__name__}: {first_line(error)}; --debug shows where"
    yield from _alone(unfit, inputs, apart, traces)
    for part in filter(None, parts):
        yield from _together(part, inputs, shares)
