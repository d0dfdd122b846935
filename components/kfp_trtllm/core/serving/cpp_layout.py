"""Writes NVIDIA's C++ layout for built engines: inflight_batcher_llm, from the templates in the serving image.

Stays behind: Triton never sees this module. Five models: `preprocessing`, `tensorrt_llm` (the C++ backend
`tensorrtllm`), `postprocessing`, `tensorrt_llm_bls`, and the ensemble, which gets the name that clients ask for.

The ensemble's request is not that of schema.py: `CppLayout.request_fields` has its fields as its configuration tells
them, `RENAMED` those of ours that it calls otherwise, and `MISSING` those that it can't do.

A template parameter that has no value is not written: the backend then takes its default, exactly as where the
template's own text was left in (model_state.cc and model_instance_state.cc of TensorRT-LLM 1.x throw for a missing
entry and for one that is no number in the same place). Entries that are read without such a net are written empty.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.core.serving.schema import Field
from kfp_trtllm.errors import InvalidSpec, unknown

BACKENDS = {
    "preprocessing": "python",
    "tensorrt_llm": "tensorrtllm",
    "postprocessing": "python",
    "ensemble": "",
    "tensorrt_llm_bls": "python",
}
RENAMED = {"stop": "stop_words"}  # our field: the ensemble's
MISSING = ("apply_chat_template",)
ENGINE = "tensorrt_llm"  # the model that holds the engine
_TOKENIZER = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
}

# NVIDIA's known-good fill (docs/llama_multi_instance.md), and the documented defaults of what it leaves open. Of its
# values, max_tokens_in_paged_kv_cache and max_attention_window_size 2560 are one model's, so they are not here.
_FILL: Mapping[str, str] = {
    "accumulate_tokens": "False",
    "add_special_tokens": "True",
    "batch_scheduler_policy": "guaranteed_no_evict",
    "batching_strategy": "inflight_fused_batching",
    "bls_instance_count": "1",
    "cancellation_check_period_ms": "100",
    "enable_kv_cache_reuse": "False",
    "encoder_input_features_data_type": "TYPE_FP16",
    "exclude_input_in_output": "True",
    "iter_stats_max_iterations": "1000",
    "kv_cache_free_gpu_mem_fraction": "0.9",
    "logits_datatype": "TYPE_FP32",
    "max_beam_width": "1",
    "max_queue_delay_microseconds": "0",
    "max_queue_size": "0",
    "postprocessing_instance_count": "1",
    "preprocessing_instance_count": "1",
    "prompt_embedding_table_data_type": "TYPE_FP16",
    "request_stats_max_iterations": "0",
    "skip_special_tokens": "True",
    "stats_check_period_ms": "100",
    "tensorrt_llm_model_name": ENGINE,
    "triton_backend": "tensorrtllm",
}
_OPTIONAL = frozenset(
    "cross_kv_cache_fraction cuda_graph_cache_size cuda_graph_mode decoding_mode eagle_choices "
    "enable_chunked_context enable_context_fmha_fp32_acc enable_trt_overlap encoder_engine_dir gpu_device_ids "
    "gpu_weights_percent guided_decoding_backend hf_model_path kv_cache_host_memory_bytes kv_cache_onboard_blocks "
    "lookahead_ngram_size lookahead_verification_set_size lookahead_window_size lora_cache_gpu_memory_fraction "
    "lora_cache_host_memory_bytes lora_cache_max_adapter_size lora_cache_optimal_adapter_size lora_prefetch_dir "
    "max_attention_window_size max_num_images max_tokens_in_paged_kv_cache medusa_choices multi_block_mode "
    "multimodal_encoders_name multimodal_model_path normalize_log_probs num_nodes participant_ids sink_token_length "
    "speculative_decoding_fast_logits tensorrt_llm_draft_model_name xgrammar_tokenizer_info_path".split()
)
_READ_ANYWAY = {"tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend"}
_OURS = {
    "triton_backend": "it is tensorrtllm",
    "triton_max_batch_size": "set the plan's max_batch_size",
    "decoupled_mode": "set decoupled",
    "engine_dir": "it lies in the repository",
    "tokenizer_dir": "it lies in the repository",
    "tensorrt_llm_model_name": f"it is {ENGINE}",
}


@dataclass(frozen=True, kw_only=True)
class CppLayout:
    """What later steps need to know of the repository.

    Attributes:
        entry: The model that clients ask for.
        models: All models, the entry included.
        request_fields: Fields of a request to `entry`.
        response_fields: Fields of its answers.
    """

    entry: str
    models: tuple[str, ...]
    request_fields: tuple[Field, ...]
    response_fields: tuple[Field, ...]


def lay_out_cpp(
    engine_dir: Path,
    repository: Path,
    *,
    templates: Path,
    mount: str,
    model_name: str,
    version: int,
    decoupled: bool,
    max_batch_size: int,
    link: Callable[[Path, Path], None],
    options: Mapping[str, Any] | None = None,
) -> CppLayout:
    """Writes a repository around one engine.

    Args:
        engine_dir: The engine with its tokenizer files; only linked, never changed.
        repository: The model repository; new, since it can hold one engine only.
        templates: The folder inflight_batcher_llm of the serving image.
        mount: Path at which Triton will see `repository`: the C++ backend wants the engine's path in full.
        model_name: The ensemble's name, which clients ask for.
        version: Its number, from 1; the same for all five models.
        decoupled: True for streams.
        max_batch_size: Requests that run at once.
        link: Called with (file of the engine, path in the repository); the parent folder exists.
        options: Template parameters by name, over NVIDIA's known-good values.

    Raises:
        InvalidSpec: A second version, a template that is missing, holds an unknown parameter or makes no configuration
            that Triton takes, or an option that no template has.
    """
    _refuse_second(repository, version)
    rules.not_empty("mount", mount)
    if model_name in BACKENDS and model_name != "ensemble":
        raise InvalidSpec(f"model_name must not be that of a part with layout cpp, but got {model_name!r}.")
    folder = f"{mount.rstrip('/')}/{ENGINE}/{version}"
    own = {
        "triton_max_batch_size": str(max_batch_size),
        "decoupled_mode": str(decoupled),
        "engine_dir": f"{folder}/engine",
        "tokenizer_dir": f"{folder}/tokenizer",
    }
    values = {**dict.fromkeys(_OPTIONAL, ""), **_FILL, **_checked(options or {}), **own}
    texts = {part: _template(templates, part) for part in BACKENDS}
    _refuse_strangers(options or {}, texts)
    configs = {part: _configuration(part, text, values) for part, text in texts.items()}
    configs["ensemble"].name = model_name
    for part, config in configs.items():
        _write(repository / (model_name if part == "ensemble" else part), config, templates / part, version)
    for file in sorted(path for path in engine_dir.rglob("*") if path.is_file()):
        targets = [f"engine/{file.relative_to(engine_dir).as_posix()}"]
        if file.parent == engine_dir and file.name in _TOKENIZER:
            # Apart from the engine's config.json, which transformers would take for a model's.
            targets.append(f"tokenizer/{file.name}")
        for name in targets:
            target = repository / ENGINE / str(version) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            link(file, target)
    entry = configs["ensemble"]
    return CppLayout(
        entry=model_name,
        models=tuple(sorted(config.name for config in configs.values())),
        request_fields=_fields(entry.input),
        response_fields=_fields(entry.output),
    )


def fill(text: str, values: Mapping[str, str], what: str) -> str:
    """A template's text with every ${…} filled.

    Args:
        text: The template, as string.Template has it.
        values: By name; others are ignored.
        what: The template, for the message.

    Raises:
        InvalidSpec: Parameters are left; names them.
    """
    template = Template(text)
    left = sorted(set(template.get_identifiers()) - values.keys())
    if left:
        raise InvalidSpec(
            f"{what} must have no unfilled parameters, but {', '.join(f'${{{name}}}' for name in left)} "
            f"{'are' if len(left) > 1 else 'is'} unknown here: give a value in the layout's options, by that name."
        )
    return template.safe_substitute(values)


def _refuse_second(repository: Path, version: int) -> None:
    rules.at_least("version", version, 1)
    others = sorted(path.name for path in (repository / ENGINE).glob("[0-9]*"))
    if others or (repository / ENGINE).exists():
        raise InvalidSpec(
            f"version must be the only one with layout cpp, but the repository has version {', '.join(others) or '?'} "
            f"and got {version}: the C++ backend takes the engine's path from config.pbtxt, which all versions share. "
            "Deploy the other engine as a repository of its own and split traffic between the two, or use layout python."
        )


def _checked(options: Mapping[str, Any]) -> dict[str, str]:
    values = {}
    for name, value in options.items():
        if name in _OURS:
            raise InvalidSpec(f"layout options must not set {name}: {_OURS[name]}.")
        values[name] = str(value)
        if any(character in values[name] for character in '"\\\n'):
            raise InvalidSpec(f"{name} must hold no quotes, backslashes and line ends, but got {value!r}.")
    return values


def _template(templates: Path, part: str) -> str:
    path = templates / part / "config.pbtxt"
    if BACKENDS[part] == "python" and path.is_file() and not (templates / part / "1/model.py").is_file():
        raise InvalidSpec(f"templates must hold {part}/1/model.py, but it is missing.")
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise InvalidSpec(
            f"templates must be the image's folder inflight_batcher_llm, but {path} can't be read: images with "
            "TensorRT-LLM up to 1.2.1 have it; use layout python with newer ones."
        ) from None


def _refuse_strangers(options: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    known = {name for text in texts.values() for name in Template(text).get_identifiers()}
    for name in options:
        if name not in known:
            raise InvalidSpec(unknown("layout option", name, known - _OURS.keys()))


def _configuration(part: str, text: str, values: Mapping[str, str]) -> Any:
    """A template's configuration, as Triton's own protobuf understands it."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    what = f"template {part}/config.pbtxt"
    filled = fill(text, values, what)
    try:
        config = text_format.Parse(filled, triton.ModelConfig())
    except text_format.ParseError as error:
        raise InvalidSpec(f"{what} must be a model configuration, but it is not: {error}.") from None
    found = (config.name, config.platform if part == "ensemble" else config.backend)
    wanted = (part, BACKENDS[part] or "ensemble")
    if found != wanted:
        raise InvalidSpec(f"{what} must be of {wanted[0]} on {wanted[1]}, but it is of {found[0]!r} on {found[1]!r}.")
    if part == ENGINE:
        for name in sorted(config.parameters):
            if not config.parameters[name].string_value and name not in _READ_ANYWAY:
                del config.parameters[name]
    return config


def _write(folder: Path, config: Any, template: Path, version: int) -> None:
    """A model's folder: its configuration, and the template's own Python code."""
    from google.protobuf import text_format

    target = folder / str(version)
    target.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    code = sorted(path for path in (template / "1").rglob("*.py") if config.backend == "python")
    for file in code:
        copy = target / file.relative_to(template / "1")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    if not code:
        # Triton wants a folder per version, and a store keeps files only.
        (target / ".keep").touch()


def _fields(tensors: Any) -> tuple[Field, ...]:
    from tritonclient.grpc import model_config_pb2 as triton

    return tuple(
        Field(
            tensor.name,
            triton.DataType.Name(tensor.data_type).removeprefix("TYPE_"),
            many=list(tensor.dims) != [1],
            optional=bool(getattr(tensor, "optional", False)),
        )
        for tensor in tensors
    )
