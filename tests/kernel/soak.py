"""A long run: the kernel and the model decide, a million times, on frames and policies that hypothesis draws.

``python -m tests.kernel.soak [DECISIONS]`` says every few seconds how far it is, ends at the first disagreement with
what it was about, and prints at the end what was decided. script/soak runs it.
"""

import argparse
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pktmirror.agent.apply import OBJECT
from pktmirror.kernel import bpf
from pktmirror.model.evaluation import Verdict
from pktmirror.model.ledger import InterfaceOutcome, Stage
from tests.kernel.bench import Bench, expected
from tests.kernel.frames import frames
from tests.kernel.policies import Scene, scenes
from tests.kernel.test_decisions import MARKS

DECISIONS = 1_000_000
SAY_EVERY_S = 5.0
POOL_FRAMES = 4_000  # drawn before, and decided on again under other policies
FRAMES_OF_A_SCENE_MIN, FRAMES_OF_A_SCENE_MAX = 10, 250
RULES_LOOKED_AT_MAX = 400_000  # by the model, for one scene: it asks them one by one
SCENES_OF_A_ROUND = 40
ROUNDS = ((16, 3), (400, 64), (400, 64), (10_000, 64))  # rules and sessions at most, by turns
DIGITS = 12

Arrival = tuple[bytes, bool, int]  # the frame, whether at the ingress hook, its mark

arrivals = st.lists(st.tuples(frames(), st.booleans(), st.sampled_from(MARKS)), min_size=6, max_size=30)


class Disagreement(Exception):
    """The kernel says something else than the model."""


@dataclass
class Soak:
    """What was decided so far."""

    bench: Bench
    target: int
    started_s: float
    said_s: float = 0.0
    decided: int = 0
    rules_max: int = 0
    sessions_max: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    scenes: Counter[str] = field(default_factory=Counter)
    pool: deque[Arrival] = field(default_factory=lambda: deque(maxlen=POOL_FRAMES))

    def run(self, base_seed: int) -> None:
        """Rounds, each from a seed of its own, until there were enough decisions."""
        for round_ in range(sys.maxsize):
            if self.decided >= self.target:
                return
            self._round(base_seed + round_, *ROUNDS[round_ % len(ROUNDS)])

    def _round(self, seed_: int, rules_max: int, sessions_max: int) -> None:
        sample = random.Random(seed_)
        found: Disagreement | None = None

        @seed(seed_)
        @settings(
            max_examples=SCENES_OF_A_ROUND,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(scenes(rules_max, sessions_max), arrivals)
        def decide(scene: Scene, drawn: list[Arrival]) -> None:
            nonlocal found
            if self.decided >= self.target or found is not None:
                return
            try:
                self._decide(scene, drawn, sample, f"seed {seed_}, {rules_max} rules, {sessions_max} sessions at most")
            except (
                Disagreement
            ) as disagreement:  # not for hypothesis, which would run the scene again with other frames
                found = disagreement

        decide()
        if found is not None:
            raise found

    def _decide(self, scene: Scene, drawn: Sequence[Arrival], sample: random.Random, what: str) -> None:
        self.bench.write(scene)
        rules, sessions = extent(scene)
        self.rules_max, self.sessions_max = max(self.rules_max, rules), max(self.sessions_max, sessions)
        self.scenes["in all"] += 1
        self.scenes["with a filter of 10,000 rules"] += rules == 10_000
        self.scenes["with 64 sessions"] += sessions == 64
        for frame, at_ingress, mark in (*drawn, *self._again(scene, sample)):
            model = expected(scene, frame, at_ingress=at_ingress, mark=mark)
            for how in ("at first", "as remembered"):
                counted = self.bench.run(frame, at_ingress=at_ingress, mark=mark)
                if counted != model:
                    raise Disagreement(
                        f"{what}, {how}: the kernel says {counted}, the model {model}\n"
                        f"frame {frame.hex()} at ingress: {at_ingress}, mark {mark:#x}\n{scene}"
                    )
            self.kinds.update(str(name) for _, _, name in model)
            self.decided += 1
        self.pool.extend(drawn)
        self._say()

    def _again(self, scene: Scene, sample: random.Random) -> list[Arrival]:
        """Of the frames of former scenes as many as the model has time for."""
        [interface] = scene.state.interfaces
        looked_at = sum(len(scene.state.filters[session.filter_id].rules) for session in interface.sessions)
        most = RULES_LOOKED_AT_MAX // max(1, looked_at)
        count = max(FRAMES_OF_A_SCENE_MIN, min(FRAMES_OF_A_SCENE_MAX, most))
        return sample.sample(list(self.pool), min(count, len(self.pool)))

    def _say(self) -> None:
        now_s = time.monotonic()
        if now_s - self.said_s < SAY_EVERY_S and self.decided < self.target:
            return
        self.said_s = now_s
        rate = self.decided / max(now_s - self.started_s, 0.001)
        left_s = max(0, self.target - self.decided) / max(rate, 0.001)
        print(  # noqa: T201
            f"{self.decided:>{DIGITS},} of {self.target:,} decisions, {rate:,.0f}/s, {left_s / 60:.0f} min left; "
            f"{self.scenes['in all']:,} policies, up to {self.rules_max:,} rules and {self.sessions_max} sessions; "
            "no disagreement",
            flush=True,
        )

    def summary(self) -> Iterator[str]:
        """What was decided, by name; AssertionError where one was never tried."""
        yield f"decisions: {self.decided:,}, each twice: at first, and as the memory of flows has it; no disagreement"
        yield f"policies: {self.scenes['in all']:,}"
        for what in ("with a filter of 10,000 rules", "with 64 sessions"):
            yield f"    {what}: {self.scenes[what]:,}"
        for name in (*Verdict, *InterfaceOutcome, Stage.CLONE_FAILED, Stage.NO_ROUTE, Stage.UNDELIVERABLE):
            assert self.kinds[str(name)] or self.target < DECISIONS, f"{name} was never tried"
            yield f"    {name}: {self.kinds[str(name)]:,}"


def extent(scene: Scene) -> tuple[int, int]:
    """The rules of the largest filter, and the sessions."""
    [interface] = scene.state.interfaces
    return max(len(filter_.rules) for filter_ in scene.state.filters.values()), len(interface.sessions)


def main() -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(description="The kernel and the model decide on drawn frames and policies.")
    parser.add_argument("decisions", nargs="?", type=int, default=DECISIONS)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="to repeat a run")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)  # noqa: T201
    loaded = bpf.Object(OBJECT)
    soak = Soak(Bench(loaded), options.decisions, time.monotonic())
    try:
        soak.run(options.seed)
    except Disagreement as disagreement:
        print(f"DISAGREEMENT after {soak.decided:,} decisions: {disagreement}", flush=True)  # noqa: T201
        return 1
    finally:
        soak.bench.close()
        loaded.close()
    for line in soak.summary():
        print(line, flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
