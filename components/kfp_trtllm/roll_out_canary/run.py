"""Moves traffic from stable to canary in steps, and decides by evidence."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kfp_trtllm.core import targets
from kfp_trtllm.core.evidence.decision import Counts, Decision, Evidence, Health, Policy, decide
from kfp_trtllm.core.evidence.split import observed_split
from kfp_trtllm.core.report.rollout import rollout_html, rollout_markdown
from kfp_trtllm.core.step import fact, leave, note, progress
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.targets import ownership
from kfp_trtllm.core.targets.base import Revision, Target
from kfp_trtllm.core.traffic.client import Answer
from kfp_trtllm.core.traffic.prober import Pair, Prober, default_prompts, failure
from kfp_trtllm.errors import DeployFailed
from kfp_trtllm.roll_out_canary.spec import Rollout

_WARM_UP = 3  # pairs that are not counted: a new process fills its caches
_CALIBRATION = 8  # further pairs that tell stable's own latency
_SLACK = 3.0  # an SLO that nobody gave is this many times stable's median in the calibration
_ALARM = 1e-5  # for the split, which is looked at many times: too small for chance to add up
_LOOK = 5  # pairs and unaddressed requests between two decisions
_SAMPLES = 6  # answers kept for the report
_OUTCOMES = {"promote": "promoted", "roll_back": "rolled_back", "inconclusive": "inconclusive"}


@dataclass(frozen=True, kw_only=True)
class RolledOut:
    """Outputs of roll_out_canary."""

    verdict: str
    reason: str
    metrics: dict[str, float] = field(default_factory=dict)


def run(spec: Rollout, *, report: Path | None = None, summary: Path | None = None) -> RolledOut:
    """Decides a rollout and moves the traffic accordingly; goes on where a killed attempt stopped."""
    revision = Revision.of(open_store(spec.store).get(spec.repository))
    target = targets.get(spec.target)
    state = target.state(revision.model)
    saved = target.load_rollout(revision.model) or {}
    mine = saved if saved.get("canary") == revision.name and "trial" in saved else {}
    if state.stable is not None and state.stable.name == revision.name and not mine.get("outcome"):
        document = _without_trial(spec, revision, "promoted", f"{revision.name} serves already: nothing to roll out.")
        fact(reused=True)
    elif mine.get("outcome"):  # decided, then killed before the end
        _apply(target, revision, mine["outcome"])
        document = _document(spec, revision, mine)
    elif state.canary is None or state.canary.name != revision.name:
        raise DeployFailed(f"{revision.name} is not deployed to {spec.target}: run deploy_triton for it first.")
    elif state.stable is None:
        target.promote(revision.model)
        reason = "First release: there was nothing to compare with, so it was promoted after its smoke test."
        document = _without_trial(spec, revision, "promoted", reason)
    else:
        trial = _Trial(spec, target, revision, state.stable, mine)
        trial.conduct()
        _apply(target, revision, trial.saved["outcome"])
        trial.mark(f"traffic is on {revision.name if trial.saved['outcome'] == 'promoted' else state.stable.name}")
        document = _document(spec, revision, trial.saved)
    leave(report, rollout_html(document))
    leave(summary, rollout_markdown(document))
    note(f"{document['outcome'].replace('_', ' ')}: {document['reason']}")
    fact(result=document["outcome"].replace("_", " "), decision=document["outcome"], reason=document["reason"])
    return RolledOut(verdict=document["outcome"], reason=document["reason"], metrics=_metrics(document))


def _apply(target: Target, revision: Revision, outcome: str) -> None:
    """Moves the traffic as decided; harmless when that was done before."""
    state = target.state(revision.model)
    if state.canary is None or state.canary.name != revision.name:
        return
    if outcome == "promoted":
        target.promote(revision.model)
    else:
        target.restore(revision.model)


class _Trial:
    """A rollout under way. What it knows is saved after every look, so that a kill costs one look at most."""

    def __init__(
        self, spec: Rollout, target: Target, canary: Revision, stable: Revision, saved: dict[str, Any]
    ) -> None:
        self.spec, self.target, self.canary, self.stable = spec, target, canary, stable
        self.policy: Policy = spec.policy()
        if not canary.facts.decoupled or not stable.facts.decoupled:
            # One answer in one piece tells no first token.
            self.policy = Policy(**{**asdict(self.policy), "metrics": ("errors",)})
        if saved.get("policy") not in (None, asdict_json(self.policy)):
            note("the rollout's rules have changed since it was interrupted: starting over")
            saved = {}
        self.saved: dict[str, Any] = saved or self._fresh()
        self.evidence = Evidence.from_json(self.saved["evidence"])
        self._began = time.monotonic() - self.saved["seconds"]
        if saved:
            self.mark("resumed")
        chat = canary.facts.chat_template and stable.facts.chat_template
        self.prober = Prober(
            canary.model,
            gateway=target.endpoint(canary.model),
            stable=target.endpoint(canary.model, stable),
            canary=target.endpoint(canary.model, canary),
            prompts=spec.probe_prompts or default_prompts(),
            chat=chat,
            stream=canary.facts.decoupled,
            max_tokens=spec.probe_max_tokens,
            timeout_seconds=spec.probe_timeout_seconds,
            start=self.saved["probes"],
        )

    def _fresh(self) -> dict[str, Any]:
        return {
            "trial": True,
            "canary": self.canary.name,
            "stable": self.stable.name,
            "policy": asdict_json(self.policy),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "step": 0,
            "probes": 0,
            "wrong_revision": 0,
            "evidence": Evidence.start(self.policy).to_json(),
            "slo": None,
            "served": {},
            "user_errors": 0,
            "users": 0,
            "timeline": [],
            "looks": [],
            "split": [],
            "latency": {"stable": {"ttft_ms": [], "itl_ms": []}, "canary": {"ttft_ms": [], "itl_ms": []}},
            "samples": [],
            "failures": [],
            "guards": [],
            "rows": [],
        }

    @property
    def weight(self) -> int:
        """The canary's share of traffic in the current step, in percent."""
        return int(self.spec.rollout_steps[self.saved["step"]])

    def mark(self, event: str) -> None:
        """Notes an event on the timeline."""
        self.saved["timeline"].append({"seconds": self._seconds(), "weight": self._shown_weight(), "event": event})

    def save(self) -> None:
        """Makes the state survive a kill, and renews the claim on this rollout."""
        self.saved["seconds"] = self._seconds()
        self.saved["evidence"] = self.evidence.to_json()
        self.saved["owner"] = ownership.renewed(self.spec.run_id)
        self.target.save_rollout(self.canary.model, self.saved)

    def conduct(self) -> None:
        """Goes through the steps until there is a decision, which is saved before anything is done about it."""
        if self.saved["slo"] is None:
            self._calibrate()
        self._split()
        with progress("Rolling out", len(self.spec.rollout_steps) * 100.0, "%") as bar:
            while True:
                decision = self._look()
                self._show(bar)
                if decision.outcome == "advance":
                    self._advance()
                elif decision.final:
                    break
                self.save()
        self.saved.update(outcome=_OUTCOMES[decision.outcome], reason=decision.reason)
        self.mark(f"decided: {self.saved['outcome'].replace('_', ' ')}")
        self.save()

    def _calibrate(self) -> None:
        """Warms both arms up, and takes the latency bounds that nobody gave from stable before any evidence counts."""
        for _ in range(_WARM_UP):
            self._pair()
        pairs = [self._pair() for _ in range(_CALIBRATION)]
        good = [pair.stable for pair in pairs if not failure(pair.stable)]
        if not good and (not self.spec.slo_ttft_ms or not self.spec.slo_itl_ms) and len(self.policy.metrics) > 1:
            raise DeployFailed(
                f"stable {self.stable.name} gives no good answers to calibrate latency with "
                f"({failure(pairs[0].stable)}): give slo_ttft_ms and slo_itl_ms, or mend stable."
            )
        ttft = self.spec.slo_ttft_ms or _SLACK * statistics.median(
            [1e3 * answer.ttft_seconds for answer in good] or [0]
        )
        itl = self.spec.slo_itl_ms or _SLACK * statistics.median([_itl_ms(answer) for answer in good] or [0])
        self.saved["slo"] = {"ttft_ms": round(ttft, 2), "itl_ms": round(itl, 2)}
        self.mark(f"latency bounds: first token {ttft:.0f} ms, between tokens {itl:.0f} ms")

    def _split(self) -> None:
        weights = {self.canary.name: self.weight, self.stable.name: 100 - self.weight}
        self.target.split(self.canary.model, weights)
        self.saved["served"] = {}
        self.mark(f"canary gets {self.weight} %")
        self.save()

    def _advance(self) -> None:
        self._check_split(final=True)
        self.saved["step"] += 1
        self.evidence = self.evidence.begin_step()
        self._split()

    def _look(self) -> Decision:
        """Probes a little, then decides."""
        pairs = [self._pair() for _ in range(_LOOK)]
        for _ in range(_LOOK):
            answer = self.prober.user()
            self.saved["probes"] += 1
            self.saved["users"] += 1
            self.saved["user_errors"] += bool(failure(answer))
            if answer.served_by:
                self.saved["served"][answer.served_by] = self.saved["served"].get(answer.served_by, 0) + 1
        self.evidence = self.evidence.update(self._count(pairs))
        counters = self.target.observe(self.canary)
        health = Health(alive=counters.alive, restarts=counters.restarts, wrong_revision=self.saved["wrong_revision"])
        seconds = self._seconds()
        final = self.saved["step"] == len(self.spec.rollout_steps) - 1
        decision = decide(self.evidence, self.policy, elapsed_seconds=seconds, final_step=final, health=health)
        if health.problem:
            self.saved["guards"].append(health.problem)
        self.saved["rows"] = [row.to_json() for row in decision.rows]
        self.saved["looks"].append(
            {
                "seconds": seconds,
                "weight": self.weight,
                "metrics": {
                    row.metric: {
                        "n_canary": row.n_canary,
                        "bad_canary": row.bad_canary,
                        "n_stable": row.n_stable,
                        "bad_stable": row.bad_stable,
                        "log_e_harm": row.log_e_harm,
                        "log_e_promote": row.log_e_promote,
                    }
                    for row in decision.rows
                },
            }
        )
        if not decision.final and (wrong := self._check_split(final=False)):
            return Decision(outcome="inconclusive", reason=f"Inconclusive: {wrong}", rows=decision.rows)
        if decision.outcome == "promote" and (wrong := self._check_split(final=True)):
            return Decision(outcome="inconclusive", reason=f"Inconclusive: {wrong}", rows=decision.rows)
        return decision

    def _check_split(self, *, final: bool) -> str:
        """Words when unaddressed requests do not follow the weights; a step's last check goes into the report."""
        weights = {self.canary.name: self.weight, self.stable.name: 100 - self.weight}
        check = observed_split(self.saved["served"], weights, alpha=_ALARM)
        if final or check.ok is False:
            self.saved["split"].append(
                {"weight": self.weight, "counts": dict(self.saved["served"]), "ok": check.ok, "text": check.text}
            )
        return check.text if check.ok is False else ""

    def _pair(self) -> Pair:
        pair = self.prober.pair()
        self.saved["probes"] += 1
        for answer, name in ((pair.stable, self.stable.name), (pair.canary, self.canary.name)):
            if answer.served_by and answer.served_by != name:
                self.saved["wrong_revision"] += name == self.canary.name
        return pair

    def _count(self, pairs: list[Pair]) -> dict[str, Counts]:
        """Bad answers by metric. Latency is judged on good answers only: a failed one is an error already."""
        slo = self.saved["slo"]
        bad = {"errors": [0, 0], "ttft": [0, 0], "itl": [0, 0]}
        asked = {"errors": [0, 0], "ttft": [0, 0], "itl": [0, 0]}
        for pair in pairs:
            for arm, (name, answer) in enumerate((("canary", pair.canary), ("stable", pair.stable))):
                problem = failure(answer)
                asked["errors"][arm] += 1
                bad["errors"][arm] += bool(problem)
                if problem:
                    if len(self.saved["failures"]) < 20:
                        self.saved["failures"].append({"arm": name, "prompt": pair.prompt, "error": problem[:300]})
                    continue
                latency = self.saved["latency"][name]
                asked["ttft"][arm] += 1
                bad["ttft"][arm] += 1e3 * answer.ttft_seconds > slo["ttft_ms"]
                latency["ttft_ms"].append(round(1e3 * answer.ttft_seconds, 2))
                if answer.itl_seconds:
                    asked["itl"][arm] += 1
                    bad["itl"][arm] += _itl_ms(answer) > slo["itl_ms"]
                    latency["itl_ms"].append(round(_itl_ms(answer), 2))
            if len(self.saved["samples"]) < _SAMPLES and not failure(pair.canary) and not failure(pair.stable):
                self.saved["samples"].append(
                    {"prompt": pair.prompt, "stable_text": pair.stable.text, "canary_text": pair.canary.text}
                )
        return {
            metric: Counts(
                n_canary=asked[metric][0],
                bad_canary=bad[metric][0],
                n_stable=asked[metric][1],
                bad_stable=bad[metric][1],
            )
            for metric in self.policy.metrics
        }

    def _show(self, bar: Any) -> None:
        """The share of the way: steps done, and in the last one how much of the evidence is there."""
        steps, step = len(self.spec.rollout_steps), self.saved["step"]
        needed = max(1, self.policy.min_step_requests)
        within = min(1.0, self.evidence.step_requests / needed)
        if step == steps - 1:
            enough = -math.log(self.policy.alpha)
            within = min(max(0.0, float(row["log_e_promote"])) / enough for row in self.saved["rows"])
        bar.what = f"Rolling out, canary at {self.weight} %"
        bar.update(100.0 * (step + min(1.0, within)))

    def _seconds(self) -> float:
        return float(round(time.monotonic() - self._began, 3))

    def _shown_weight(self) -> int:
        outcome = self.saved.get("outcome")
        if outcome is not None:
            return 100 if outcome == "promoted" else 0
        return self.weight if self.saved["slo"] is not None and self.saved["timeline"] else 0


def asdict_json(policy: Policy) -> dict[str, Any]:
    """The policy as it looks after a round trip through JSON, to be compared with a saved one."""
    return {**asdict(policy), "metrics": list(policy.metrics)}


def _itl_ms(answer: Answer) -> float:
    gaps = answer.itl_seconds
    return 1e3 * sum(gaps) / len(gaps) if gaps else 0.0


def _without_trial(spec: Rollout, revision: Revision, outcome: str, reason: str) -> dict[str, Any]:
    """The report of a rollout that needed no trial."""
    return _document(
        spec,
        revision,
        {
            "outcome": outcome,
            "reason": reason,
            "stable": None,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "policy": asdict_json(spec.policy()),
        },
    )


def _document(spec: Rollout, revision: Revision, saved: dict[str, Any]) -> dict[str, Any]:
    """What the report shows."""
    empty: dict[str, Any] = {"ttft_ms": [], "itl_ms": []}
    return {
        "model": revision.model,
        "target": spec.target,
        "stable": saved["stable"],
        "canary": revision.name,
        "outcome": saved["outcome"],
        "reason": saved["reason"],
        "started": saved["started"],
        "seconds": saved["seconds"],
        "alpha": spec.rollout_alpha,
        "policy": saved["policy"],
        "slo": saved.get("slo") or {"ttft_ms": None, "itl_ms": None},
        "timeline": saved.get("timeline", []),
        "looks": saved.get("looks", []),
        "split": saved.get("split", []),
        "metrics": saved.get("rows", []),
        "latency": saved.get("latency", {"stable": empty, "canary": empty}),
        "samples": saved.get("samples", []),
        "failures": saved.get("failures", []),
        "guards": saved.get("guards", []),
        "users": {"requests": saved.get("users", 0), "errors": saved.get("user_errors", 0)},
    }


def _metrics(document: dict[str, Any]) -> dict[str, float]:
    metrics = {"seconds": float(document["seconds"])}
    for row in document["metrics"]:
        for arm in ("canary", "stable"):
            metrics[f"{row['metric']}_bad_{arm}"] = float(row[f"bad_{arm}"])
            metrics[f"{row['metric']}_requests_{arm}"] = float(row[f"n_{arm}"])
    return metrics
