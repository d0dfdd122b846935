"""Makes a Triton model repository from an engine."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from kfp_trtllm.core import backends
from kfp_trtllm.core.manifest import EngineFacts, File, Manifest, RepositoryFacts
from kfp_trtllm.core.serving.layout import lay_out
from kfp_trtllm.core.step import fact, note
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.store.base import Store
from kfp_trtllm.errors import InvalidSpec
from kfp_trtllm.package_repository.spec import Packaging


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
    others = _other_versions(base, spec)
    with (
        store.workspace(f"package-{spec.model_name}-{os.getpid()}") as work,
        store.folder(store.get(source.digest)) as folder,
    ):
        root = work / "repository"
        known: dict[str, File] = {}
        by_path = {folder / file.path: file for file in source.files}

        def link(original: Path, target: Path) -> None:
            os.link(original, target)
            known[target.relative_to(root).as_posix()] = by_path[original]

        root.mkdir()
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
        )
        if base is not None:
            _take_over(store, base, others, spec.model_name, root, known)
        manifest = store.put_folder(
            root,
            kind="repository",
            facts=dataclasses.asdict(
                RepositoryFacts(
                    model_name=spec.model_name,
                    model_version=spec.model_version,
                    versions=tuple(sorted({*others, spec.model_version})),
                    backend=facts.backend,
                    variant=facts.variant,
                    engine=source.digest,
                    decoupled=spec.decoupled,
                    chat_template=facts.chat_template,
                    max_batch_size=facts.max_batch_size,
                    max_input_len=facts.max_input_len,
                    max_seq_len=facts.max_seq_len,
                )
            ),
            parents=(source.digest, *([base.digest] if base is not None else [])),
            known=known,
        )
    note(f"{spec.model_name} version {spec.model_version} ({facts.variant}) is {manifest.digest}")
    fact(result=f"version {spec.model_version}, {manifest.size / 1e6:,.0f} MB", digest=manifest.digest)
    manifest.write(repository)
    return Packaged(digest=manifest.digest)


def _other_versions(base: Manifest | None, spec: Packaging) -> tuple[int, ...]:
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
    return tuple(version for version in facts.versions if version != spec.model_version)


def _take_over(
    store: Store, base: Manifest, versions: tuple[int, ...], model: str, root: Path, known: dict[str, File]
) -> None:
    """Links the files of other versions into a repository."""
    prefixes = tuple(f"{model}/{version}/" for version in versions)
    with store.folder(base) as folder:
        for file in base.files:
            if file.path.startswith(prefixes):
                target = root / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / file.path, target)
                known[file.path] = file
