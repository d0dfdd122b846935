"""A first look at a revision, before it gets traffic."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kfp_trtllm.core import targets
from kfp_trtllm.core.step import fact, leave, note
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.targets.base import Endpoint, Revision
from kfp_trtllm.core.traffic import client
from kfp_trtllm.smoke_test.spec import SmokeTest


@dataclass(frozen=True, kw_only=True)
class Smoked:
    """Outputs of smoke_test."""

    verdict: str
    reason: str


class _CheckFailed(Exception):
    """What a check saw that it should not have seen, in words."""


def _expect(holds: bool, otherwise: str) -> None:
    """Not an `assert`: those are gone under `python -O`, and every check would pass."""
    if not holds:
        raise _CheckFailed(otherwise)


@dataclass
class _Checks:
    """Runs checks one after the other; the first that fails ends them."""

    lines: list[tuple[str, bool, str]] = field(default_factory=list)
    failed: str = ""

    def __call__(self, name: str, check: Callable[[], str]) -> None:
        """Runs a check that says what it saw, or raises _CheckFailed with what is wrong."""
        if self.failed:
            return
        try:
            self.lines.append((name, True, check()))
        except _CheckFailed as problem:
            self.lines.append((name, False, str(problem)))
            self.failed = f"{name}: {problem}"


def run(spec: SmokeTest, *, report: Path | None = None) -> Smoked:
    """Asks a revision what users will ask, over every protocol that it serves, and what they should not ask."""
    revision = Revision.of(open_store(spec.store).get(spec.repository))
    target = targets.get(spec.target)
    state = target.state(revision.model)
    if state.stable is not None and state.stable.name == revision.name:
        return _finish([("serving", True, f"{revision.name} serves already: tested when it was released")], "", report)
    endpoint = target.endpoint(revision.model, revision)
    checks = _Checks()
    checks("metadata", lambda: _metadata(endpoint, revision))
    if revision.facts.decoupled:
        checks("HTTP, one answer", lambda: _answer(spec, endpoint, revision, stream=False))
        checks("HTTP, streamed", lambda: _answer(spec, endpoint, revision, stream=True))
    else:
        checks("HTTP, /infer", lambda: _answer(spec, endpoint, revision, stream=False))
    if endpoint.grpc:
        checks("gRPC", lambda: _grpc(spec, endpoint, revision))
    checks("an empty prompt is refused", lambda: _refused(endpoint, revision, "", 4))
    too_long = "word " * (revision.facts.max_input_len + 8)
    checks("a prompt that is too long is refused", lambda: _refused(endpoint, revision, too_long, 4))
    checks("the model goes on", lambda: _answer(spec, endpoint, revision, stream=revision.facts.decoupled))
    return _finish(checks.lines, checks.failed, report)


def _metadata(endpoint: Endpoint, revision: Revision) -> str:
    metadata = client.metadata(endpoint, revision.model)
    name = metadata.get("name")
    _expect(name == revision.model, f"Triton serves {name!r}, not {revision.model!r}")
    versions = sorted(int(version) for version in metadata.get("versions", []))
    wanted = sorted(revision.facts.versions)
    _expect(versions == wanted, f"versions {versions}, not {wanted}")
    return f"versions {', '.join(map(str, versions))}"


def _answer(spec: SmokeTest, endpoint: Endpoint, revision: Revision, *, stream: bool) -> str:
    call = client.generate if revision.facts.decoupled else client.infer
    options = {"stream": stream} if revision.facts.decoupled else {}
    answer = call(
        endpoint,
        revision.model,
        spec.smoke_prompt,
        max_tokens=spec.smoke_max_tokens,
        apply_chat_template=revision.facts.chat_template,
        timeout=float(spec.smoke_timeout_seconds),
        **options,
    )
    text = _judge(spec, answer)
    _expect(answer.served_by in ("", revision.name), f"{answer.served_by} answered, not {revision.name}")
    return text


def _grpc(spec: SmokeTest, endpoint: Endpoint, revision: Revision) -> str:
    answer = client.generate_grpc(
        endpoint,
        revision.model,
        spec.smoke_prompt,
        max_tokens=spec.smoke_max_tokens,
        apply_chat_template=revision.facts.chat_template,
        stream=revision.facts.decoupled,
        timeout=float(spec.smoke_timeout_seconds),
    )
    return _judge(spec, answer)


def _judge(spec: SmokeTest, answer: client.Answer) -> str:
    _expect(not answer.error, answer.error)
    _expect(bool(answer.text.strip()), "the answer was empty")
    _expect(answer.output_tokens > 0, "no tokens were counted")
    matches = re.search(spec.smoke_expect, answer.text) is not None
    _expect(matches, f"the answer does not match {spec.smoke_expect!r}: {answer.text!r}")
    shown = " ".join(answer.text.split())
    return f"{answer.output_tokens} tokens in {answer.total_seconds:.2f} s: {shown[:60]}"


def _refused(endpoint: Endpoint, revision: Revision, prompt: str, max_tokens: int) -> str:
    call = client.generate if revision.facts.decoupled else client.infer
    answer = call(endpoint, revision.model, prompt, max_tokens=max_tokens, timeout=30.0)
    _expect(bool(answer.error), "it was answered")
    return answer.error.splitlines()[0][:100]


def _finish(lines: list[tuple[str, bool, str]], failed: str, report: Path | None) -> Smoked:
    for name, good, text in lines:
        note(f"{'ok    ' if good else 'FAILED'} {name}: {text}")
    verdict = "failed" if failed else "passed"
    reason = failed or f"{len(lines)} checks passed"
    fact(result=reason)
    rows = "\n".join(
        f"| {name} | {'passed' if good else '**failed**'} | {text.replace('|', chr(92) + '|')} |"
        for name, good, text in lines
    )
    leave(report, f"### Smoke test: {verdict}\n\n| check | result | |\n|---|---|---|\n{rows}\n")
    return Smoked(verdict=verdict, reason=reason)
