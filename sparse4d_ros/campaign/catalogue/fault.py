"""One fault: how it comes and goes, what the node must count meanwhile, and whether it was survived."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from ..observer import any_of, growth
from ..running_system import CampaignError, RunningSystem

CAUSE_SECONDS = 15.0  # until a cause must have been counted
RECOVERY_SECONDS = 60.0  # until there must be good output again


class NotSurvived(Exception):
    """A fault has found something that should not be; the message tells what."""


class NotPossible(Exception):
    """A fault that cannot be made on this machine; the message tells why."""


@dataclass(frozen=True)
class Fault:
    """Attributes:
    name: short.
    description: what happens, for the table.
    inject: a context in which the fault is there.
    causes: counters of the diagnostics; one of them must grow. Empty: nothing needs to be lost.
    says: a text that the diagnostics must show meanwhile, where that is the sign of it.
    seconds: it lasts at least so long.
    """

    name: str
    description: str
    inject: Callable[[RunningSystem], AbstractContextManager[None]]
    causes: tuple[str, ...] = ()
    says: str = ""
    seconds: float = 1.0

    @property
    def signs(self) -> tuple[str, ...]:
        """What shows that the node has noticed it."""
        return (f"'{self.says}' in the diagnostics",) if self.says else self.causes


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    name: str
    description: str
    alive: bool = False
    signs: tuple[str, ...] = ()  # counters, or texts in the diagnostics, of which one had to show
    counted: dict[str, int] = field(default_factory=dict)  # everything that was counted meanwhile
    recovery_s: float | None = None  # from the end of the fault to good output; None: never
    problem: str = ""  # why it was not survived
    skipped: str = ""  # why it was not tried

    @property
    def survived(self) -> bool:
        return not self.problem


def try_fault(fault: Fault, system: RunningSystem) -> Outcome:
    """Injects a fault into a system that works, and takes it away again."""
    outcome = Outcome(fault.name, fault.description, signs=fault.signs)
    try:
        system.wait_for_output(RECOVERY_SECONDS)
        before, errors = system.observer.counters(), system.log().count("Traceback")
        noticed = False
        with fault.inject(system):
            noticed = _wait(fault, system, before)
        recovery = system.wait_for_output(RECOVERY_SECONDS)
    except NotPossible as reason:
        return replace(outcome, alive=system.alive, skipped=str(reason))
    except (CampaignError, NotSurvived) as error:
        return replace(outcome, alive=system.alive, problem=str(error))
    if not noticed:  # what it counted at the end comes with the next diagnostics
        noticed = system.observer.wait_for(lambda: _is_noticed(fault, system, before), 3.0)
    problem = "" if noticed else f"no sign of it: neither of {', '.join(fault.signs)}"
    if (more := system.log().count("Traceback") - errors) > 0:
        problem = f"{more} tracebacks in the log"
    counted = growth(system.observer.counters(), before)
    return replace(outcome, alive=system.alive, counted=counted, recovery_s=round(recovery, 2), problem=problem)


def _is_noticed(fault: Fault, system: RunningSystem, before: dict[str, int]) -> bool:
    if fault.says:
        return fault.says in system.observer.text()
    return not fault.causes or any_of(fault.causes, growth(system.observer.counters(), before))


def _wait(fault: Fault, system: RunningSystem, before: dict[str, int]) -> bool:
    """Lasts as long as the fault is to last, and until it is noticed."""
    end = time.monotonic() + fault.seconds
    noticed = system.observer.wait_for(lambda: _is_noticed(fault, system, before), CAUSE_SECONDS)
    time.sleep(max(0.0, end - time.monotonic()))
    return noticed
