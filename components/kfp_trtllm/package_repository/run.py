"""Makes a Triton model repository from an engine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.core import backends
from kfp_trtllm.core.backends.trtllm.launch import launch
from kfp_trtllm.core.links import link as link_or_copy
from kfp_trtllm.core.manifest import EngineFacts, File, Manifest, RepositoryFacts
from kfp_trtllm.core.serving.cpp_layout import lay_out_cpp
from kfp_trtllm.core.serving.engine import SETTINGS
from kfp_trtllm.core.serving.layout import lay_out, set_options
from kfp_trtllm.core.step import fact, note
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.store.base import Store
from kfp_trtllm.errors import InvalidSpec
from kfp_trtllm.package_repository.spec import Packaging

TEMPLATES_VARIABLE = "TRITON_TRTLLM_TEMPLATES"  # where the image has inflight_batcher_llm, if not in NVIDIA's place
_TEMPLATES = "/app/tensorrt_llm/triton_backend/all_models/inflight_batcher_llm"
_MOUNT = "/models"  # where targets mount repositories; the C++ backend wants its engine's path in full

Link = Callable[[Path, Path], None]


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """Outputs of package_repository."""

    digest: str


def run(spec: Packaging, *, engine: Path, repository: Path) -> Packaged:
    """Lays an engine out as a model repository, writes its manifest and tells its digest."""
    store = open_store(spec.store)
    source = Manifest.read(engine)
    facts = source.facts_as(EngineFacts)
    base = store.get(spec.base_repository) if spec.base_repository else None
    others = _other_versions(base, spec, facts)
    with (
        store.workspace(f"package-{spec.model_name}-{os.getpid()}") as work,
        store.folder(store.get(source.digest)) as folder,
    ):
        root = work / "repository"
        known: dict[str, File] = {}
        by_path = {folder / file.path: file for file in source.files}

        def link(original: Path, target: Path) -> None:
            link_or_copy(original, target)
            known[target.relative_to(root).as_posix()] = by_path[original]

        root.mkdir()
        _lay_out(spec, source, folder, root, versions=1 + len(others), link=link)
        if base is not None:
            _take_over(store, base, others, spec, root, known)
        manifest = store.put_folder(
            root,
            kind="repository",
            facts=dataclasses.asdict(_facts(spec, source, base, others)),
            parents=(source.digest, *([base.digest] if base is not None else [])),
            known=known,
        )
    note(f"{spec.model_name} version {spec.model_version} ({facts.variant}) is {manifest.digest}")
    fact(result=f"version {spec.model_version}, {manifest.size / 1e6:,.0f} MB", digest=manifest.digest)
    manifest.write(repository)
    return Packaged(digest=manifest.digest)


def _lay_out(spec: Packaging, engine: Manifest, folder: Path, root: Path, *, versions: int, link: Link) -> None:
    facts = engine.facts_as(EngineFacts)
    if spec.layout == "cpp":
        if facts.backend != "tensorrt":
            raise InvalidSpec(
                f"layout must be python with backend {facts.backend}, but got cpp, which serves engines only."
            )
        lay_out_cpp(
            folder,
            root,
            templates=Path(os.environ.get(TEMPLATES_VARIABLE, _TEMPLATES)),
            mount=_MOUNT,
            model_name=spec.model_name,
            version=spec.model_version,
            decoupled=spec.decoupled,
            max_batch_size=facts.max_batch_size,
            link=link,
            options={"kv_cache_free_gpu_mem_fraction": str(spec.kv_cache_free_gpu_memory_fraction)},
        )
        return
    lay_out(
        folder,
        root,
        model_name=spec.model_name,
        version=spec.model_version,
        adapter=backends.get(facts.backend).adapter(),
        decoupled=spec.decoupled,
        max_batch_size=facts.max_batch_size,
        max_input_len=facts.max_input_len,
        max_seq_len=facts.max_seq_len,
        link=link,
        options=_options(spec, engine.facts, versions),
    )


def _options(spec: Packaging, facts: Mapping[str, Any], versions: int) -> Mapping[str, Any]:
    return backends.get(facts["backend"]).serving_options(
        facts, versions=versions, memory_fraction=spec.kv_cache_free_gpu_memory_fraction
    )


def _facts(spec: Packaging, engine: Manifest, base: Manifest | None, others: tuple[int, ...]) -> RepositoryFacts:
    facts = engine.facts_as(EngineFacts)
    kept = base.facts_as(RepositoryFacts).variants if base is not None else {}
    on_gpus = bool(facts.gpu_kind)
    return RepositoryFacts(
        model_name=spec.model_name,
        model_version=spec.model_version,
        versions=tuple(sorted({*others, spec.model_version})),
        variants={
            **{str(version): kept.get(str(version), "") for version in others},
            str(spec.model_version): facts.variant,
        },
        backend=facts.backend,
        variant=facts.variant,
        engine=engine.digest,
        decoupled=spec.decoupled,
        chat_template=facts.chat_template,
        max_batch_size=facts.max_batch_size,
        max_input_len=facts.max_input_len,
        max_seq_len=facts.max_seq_len,
        layout=spec.layout,
        gpus=facts.tp_size * facts.pp_size if on_gpus else 0,
        gpu_kind=facts.gpu_kind,
        trtllm_version=facts.trtllm_version,
        launch=dataclasses.asdict(launch(facts.tp_size, facts.pp_size, facts.backend, spec.layout)) if on_gpus else {},
    )


def _other_versions(base: Manifest | None, spec: Packaging, engine: EngineFacts) -> tuple[int, ...]:
    """The versions of an earlier repository that are to be kept."""
    if base is None:
        return ()
    facts = base.facts_as(RepositoryFacts)
    if facts.model_name != spec.model_name:
        raise InvalidSpec(
            f"base_repository must be one of model {spec.model_name}, but {base.digest} is one of {facts.model_name}."
        )
    if facts.decoupled != spec.decoupled:
        raise InvalidSpec(
            f"decoupled must be {facts.decoupled} as in base_repository, since all versions of a model share one "
            f"config.pbtxt, but got {spec.decoupled}."
        )
    for name in ("layout", "backend", "gpu_kind", "trtllm_version"):
        theirs, ours = getattr(facts, name), getattr(spec if name == "layout" else engine, name)
        if theirs != ours:
            raise InvalidSpec(
                f"{name} must be {theirs or 'empty'} as in base_repository, since one server runs all versions, but got "
                f"{ours or 'none'}."
            )
    if spec.model_version < max(facts.versions):
        raise InvalidSpec(
            f"model_version must be at least {max(facts.versions)}, the newest of base_repository, since requests that "
            f"name no version go to the newest, but got {spec.model_version}."
        )
    return tuple(version for version in facts.versions if version != spec.model_version)


def _take_over(
    store: Store, base: Manifest, versions: tuple[int, ...], spec: Packaging, root: Path, known: dict[str, File]
) -> None:
    """Links the files of other versions into a repository, and gives them their new share of the GPUs."""
    prefixes = tuple(f"{spec.model_name}/{version}/" for version in versions)
    with store.folder(base) as folder:
        for file in base.files:
            if file.path.startswith(prefixes):
                target = root / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(folder / file.path, target)
                known[file.path] = file
    engines = _engines(store, base)
    for version in versions:
        if options := _options(spec, engines[version].facts, 1 + len(versions)):
            set_options(root / spec.model_name / str(version), options)
            del known[f"{spec.model_name}/{version}/{SETTINGS}"]


def _engines(store: Store, repository: Manifest) -> dict[int, Manifest]:
    """The engine of each version: a repository's own, and those of the repositories that it was made from."""
    facts = repository.facts_as(RepositoryFacts)
    found: dict[int, Manifest] = {}
    for parent in repository.parents:
        manifest = store.get(parent)
        if manifest.kind == "repository":
            found |= _engines(store, manifest)
    return {**found, facts.model_version: store.get(facts.engine)}
