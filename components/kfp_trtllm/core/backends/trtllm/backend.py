"""What both backends do alike: their precisions, and how their engines are loaded and share GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.base import TextModel
from kfp_trtllm.core.backends.trtllm import llm_args
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.errors import BuildFailed


class TrtLlmBackend:
    """The shared half of `base.Backend`."""

    name: str

    def variants(self) -> Mapping[str, str]:
        """See `base.Backend`."""
        return {name: variant.title for name, variant in VARIANTS.items() if self.name in variant.backends}

    def adapter(self) -> str:
        """See `base.Backend`."""
        return self.name

    def load(self, engine: Path, plan_facts: Mapping[str, Any]) -> TextModel:
        """See `base.Backend`: alone on the GPUs."""
        from kfp_trtllm.core.backends.text_model import EngineTextModel
        from kfp_trtllm.core.serving.engine import Settings

        settings = Settings(
            adapter=self.adapter(),
            max_batch_size=int(plan_facts["max_batch_size"]),
            max_input_len=int(plan_facts["max_input_len"]),
            max_seq_len=int(plan_facts["max_seq_len"]),
            options=self.serving_options(plan_facts, versions=1, memory_fraction=llm_args.TOTAL_FRACTION),
        )
        try:
            return EngineTextModel(engine, settings)
        except ValueError as error:  # what the folder lacks, or that TensorRT-LLM is not in this image
            raise BuildFailed(f"the engine can't be loaded: {error}") from error
        except Exception as error:  # TensorRT-LLM raises whatever its executor died of
            raise BuildFailed(f"the engine can't be loaded: {type(error).__name__}: {error}") from error

    def serving_options(self, facts: Mapping[str, Any], *, versions: int, memory_fraction: float) -> Mapping[str, Any]:
        """See `base.Backend`."""
        raise NotImplementedError

    def arguments(
        self, options: Mapping[str, Any], facts: Mapping[str, Any], *, versions: int, memory_fraction: float
    ) -> dict[str, Any]:
        """Arguments of LLM() for an engine that shares its GPUs with other versions; `options` are the user's."""
        return llm_args.engine_options(
            options,
            backend=self.name,
            version=str(facts["trtllm_version"]),
            tp_size=int(facts["tp_size"]),
            pp_size=int(facts["pp_size"]),
            versions=versions,
            memory_fraction=memory_fraction,
        )
