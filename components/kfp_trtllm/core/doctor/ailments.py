"""The ailments that are known by the messages they leave, most telling first, and the lines that mean nothing.

Messages are quoted as NVIDIA's, Kubernetes', Hugging Face's and our own code writes them; `signs.py` says how they are
matched. The order is the rule for logs that hold several: what ends a process stands before what follows from that,
and what is only a request's fault after both. Unknown, and so not here: the words of the ValueError with which
TensorRT-LLM 1.3 refuses `backend="tensorrt"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core.doctor.diagnosis import RETRIES, Retry

BUILT = "Total time of building all engines"  # trtllm-build came to its good end
# TensorRT's, whether it builds an engine or loads one.
_NO_GPU_MEMORY = (
    "::resizePhysical::…OutOfMemory",
    "::makeResizableGpuMemory::…OutOfMemory",
    "Requested amount of GPU memory (… bytes) could not be allocated",
)
_BUILD_OOM = (
    "Lower max_num_tokens, then max_batch_size; where that does not help, raise tp_size or take a gpu_kind with more "
    "memory, and see that nothing else uses the GPU."
)
_SERVE_OOM = (
    "Lower kv_cache_free_gpu_memory_fraction (other processes and versions on this GPU count), or plan again with a "
    "smaller max_batch_size or max_num_tokens, or a larger tp_size."
)
_QUANTIZERS = ("quantize.py", "hf_ptq.py", "modelopt")
# Not the name alone: TensorRT-LLM imports ModelOpt, whose warnings then stand in any log.
_QUANTIZING = ('quantize.py", line', 'hf_ptq.py", line', "modelopt/torch/quantization/")


@dataclass(frozen=True, kw_only=True)
class Ailment:
    """One way to fail.

    Attributes:
        kind: Name; several entries share one where the same failure has several remedies.
        cause: What happened, in a sentence.
        remedy: What to change, in a sentence.
        signs: Messages, as `signs.py` reads them; any of them tells.
        retry: The change with which a retry is safe.
        tools: Programs in whose logs the signs mean this; none for any program. Where the caller does not name the
            program, one of `mentions` tells that it was one of these.
        mentions: Texts of which the log must hold one besides the sign; none for no such condition.
        unless_then: A message that makes those before it void: what they tell did not stop the tool.
        symptom: The signs tell only that something failed before them: the log's first other error is the evidence.
    """

    kind: str
    cause: str
    remedy: str
    signs: tuple[str, ...]
    retry: Retry = ""
    tools: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    unless_then: str = ""
    symptom: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the troubleshooting table, in words."""

    kind: str
    messages: tuple[str, ...]
    cause: str
    remedy: str
    retry: str


def rows() -> tuple[Row, ...]:
    """The table for people, in its order; "…" in a message stands for what differs."""
    return tuple(
        Row(
            kind=ailment.kind,
            messages=tuple(sign.removeprefix("^").removesuffix("$") for sign in ailment.signs),
            cause=ailment.cause,
            remedy=ailment.remedy,
            retry=RETRIES[ailment.retry],
        )
        for ailment in AILMENTS
    )


# A line with one of these is passed over, whatever else it says.
HARMLESS = (
    "Invalid timing cache, using freshly created one",  # there is none yet
    "Detected invalid timing cache, setup a local cache instead",
    "LEGACY WARNING: ",
    "kipping tactic … due to insufficient memory on requested size",  # TensorRT takes another one
    "Using an engine plan file across different models of devices is not recommended",
    "[TensorRT-LLM][WARNING]",  # optional parameters that are left out, among them json.exception lines
    "pinned memory pool will not be available",  # Triton without a GPU
    "CUDA memory pool disabled",
    "CudaDriverHelper has not been initialized",
    "max_input_len is not required and will be ignored",
)

AILMENTS = (
    # The machine, the cluster and the image.
    Ailment(
        kind="host_oom",
        cause="The system killed the process: the machine's or the pod's memory (not the GPU's) ran out.",
        remedy="Give the step's pod a larger memory limit, or let fewer workers load the model at once.",
        signs=(
            "^Killed$",
            ": line … Killed  ",
            "exited on signal 9 (Killed)",
            "OOMKilled",
            "emory cgroup out of memory: Killed process",
            "The node was low on resource: memory",
        ),
    ),
    Ailment(
        kind="cpu_oom",
        cause="An allocation of the machine's memory was refused: the model and its KV cache do not fit.",
        remedy="Lower max_batch_size or max_seq_len, whose product is the KV cache, or take a smaller variant (int4); "
        "memory_limit_gb lets plan_build refuse it next time.",
        signs=(
            "Failed to allocate memory for requested buffer of size",
            "Unable to allocate … for an array with shape",
            "DefaultCPUAllocator: can't allocate memory",
            "std::bad_alloc",
        ),
    ),
    Ailment(
        kind="image_pull",
        cause="Kubernetes can't fetch the step's image.",
        remedy="Check the image's name and tag, and that the namespace has a pull secret for its registry (NGC needs "
        "one).",
        signs=("Failed to pull image", "ErrImagePull", "ImagePullBackOff", "Back-off pulling image"),
    ),
    Ailment(
        kind="unschedulable",
        cause="No node of the cluster has what the pod asks for.",
        remedy="Lower gpu_count (tp_size x pp_size), choose a gpu_kind whose node pool exists and has free GPUs, or "
        "let the pool grow; check its taints too.",
        signs=(
            "Insufficient nvidia.com/gpu",
            "FailedScheduling",
            "node(s) didn't match Pod's node affinity/selector",
        ),
    ),
    Ailment(
        kind="shm_exhausted",
        cause="Shared memory (/dev/shm) is full: a container gets 64 MB of it unless it asks for more.",
        remedy="Mount an emptyDir of medium Memory at /dev/shm (on_gpu does), or start the container with --shm-size.",
        signs=(
            "Unable to initialize shared memory key …No space left on device",
            "Error while creating shared memory segment /dev/shm/",
            "failed to extend /dev/shm/",
            "insufficient shared memory (shm)",
        ),
    ),
    Ailment(
        kind="disk_full",
        cause="A disk is full: the store's, or the step's own.",
        remedy="Free the store with `kfp-trtllm store gc`, or give the step a larger ephemeral volume (twice the "
        "checkpoint and the engine).",
        signs=(
            "No space left on device",
            "no space left in the store",
            "must have … GB free, but it has",
            "The node was low on resource: ephemeral-storage",
        ),
    ),
    Ailment(
        kind="driver_too_old",
        cause="The GPU driver of the node is older than the CUDA version of the image.",
        remedy="Update the node's driver, or choose an older trtllm_version whose image has an older CUDA.",
        signs=("CUDA driver version is insufficient for CUDA runtime version",),
    ),
    Ailment(
        kind="no_gpu",
        cause="The process sees no GPU.",
        remedy="Give the step a GPU (gpu_count, gpu_kind), or choose backend onnxruntime, which needs none.",
        signs=(
            "No GPU devices found on the node",
            "Found no NVIDIA driver on your system",
            "no CUDA-capable device is detected",
            "libcuda.so.1: cannot open shared object file",
        ),
    ),
    Ailment(
        kind="engine_flow_removed",
        cause="This image's TensorRT-LLM has no engine builder: 1.3 dropped it, and its examples with it.",
        remedy="Take backend pytorch, or a trtllm_version up to 1.2.1 for backend tensorrt.",
        signs=(
            "trtllm-build: command not found",
            "trtllm-build: not found",
            "can't start trtllm-build: No such file or directory",
            "can't open file …convert_checkpoint.py': [Errno 2]",
            "can't open file …quantize.py': [Errno 2]",
            "No module named 'tensorrt_llm._tensorrt_engine'",
        ),
        retry="other_backend",
    ),
    Ailment(
        kind="template_unfilled",
        cause="config.pbtxt still has a placeholder of the template where Triton needs a value.",
        remedy="Package the repository again with package_repository, which fills every placeholder and refuses "
        "leftovers.",
        signs=("unable to find backend library for backend '${",),
    ),
    Ailment(
        kind="abi_mismatch",
        cause="Libraries of two TensorRT-LLM (or torch) versions are mixed in one process.",
        remedy="Serve with the Triton image that belongs to trtllm_version, and install nothing over what it has.",
        signs=("undefined symbol: _Z",),
    ),
    Ailment(
        kind="wrong_image",
        cause="This image lacks TensorRT-LLM or its Triton backend.",
        remedy="Serve with an image tritonserver:YY.MM-trtllm-python-py3 that belongs to trtllm_version; from 1.3 on "
        "the C++ backend is gone, so take the default layout.",
        signs=(
            "unable to find backend library for backend 'tensorrtllm'",
            "unable to find 'tensorrtllm/model.py'",
            "libnvinfer_plugin_tensorrt_llm.so…: cannot open shared object file",
            "libtensorrt_llm.so: cannot open shared object file",
            "No module named 'tensorrt_llm'$",
        ),
    ),
    Ailment(
        kind="wrong_image",
        cause="Python found the sources of TensorRT-LLM in the working folder instead of the installed package.",
        remedy="Start the process in a folder that is no checkout of TensorRT-LLM.",
        signs=("No module named 'tensorrt_llm.bindings'",),
    ),
    Ailment(
        kind="numpy_too_new",
        cause="Triton's Python backend can't read text tensors with numpy 2.",
        remedy="Install numpy below 2 where model.py runs: pip install 'kfp-trtllm[local]' does.",
        signs=("unpack_from requires a buffer of at least",),
    ),
    # Converting, quantizing and building.
    Ailment(
        kind="precision_unsupported",
        cause="The GPU does not have the precision that was asked for.",
        remedy="Choose a variant that it has (fp8 needs compute capability 8.9, nvfp4 10.0; fp16, int8_sq or int4_awq "
        "run on older ones), or another gpu_kind.",
        signs=(
            "Networks with FP8 precision require hardware with FP8 support",
            "Networks with FP8 Q/DQ layers require hardware with FP8 support",
            "FP8 FMHA cannot be enabled except on",
            "Unsupported SM version for FP8 block scaling GEMM",
            "Assertion failed: Unsupported architecture",
        ),
    ),
    Ailment(
        kind="precision_unsupported",
        cause="A plugin can't run in the type of the tensors around it, or not on this GPU.",
        remedy="Leave gemm_plugin and its like in build_options at auto, choose variant fp16 on a GPU without bf16, or "
        "take backend pytorch.",
        signs=("could not find any supported formats consistent with input/output data types",),
        retry="other_backend",
    ),
    Ailment(
        kind="precision_unsupported",
        cause="A plugin of build_options does not exist for Blackwell GPUs.",
        remedy="Leave that plugin out of build_options.",
        signs=("is not supported on SM 100",),
    ),
    Ailment(
        kind="unsupported_model",
        cause="TensorRT-LLM's engine builder does not know this model's architecture.",
        remedy="Take backend pytorch, which knows more of them, or a newer trtllm_version.",
        signs=("Unsupported model architecture: ",),
        retry="other_backend",
    ),
    Ailment(
        kind="unsupported_model",
        cause="The transformers library of this image is older than the model's config.json.",
        remedy="Take a newer trtllm_version, whose image has a newer transformers.",
        signs=(
            "AutoConfig cannot load the huggingface config.",
            "`rope_scaling` must be a dictionary with two fields",
            "Transformers does not recognize this architecture",
        ),
    ),
    Ailment(
        kind="convert_failure",
        cause="The checkpoint was quantized by GPTQ with desc_act, which can't be converted.",
        remedy="Start from the original weights and let convert_checkpoint quantize them (variant int4_awq).",
        signs=("GPTQ with desc_act=True is not implemented!",),
    ),
    Ailment(
        kind="convert_failure",
        cause="The checkpoint lacks tensors that its architecture needs, or a file of it is damaged.",
        remedy="Fetch it again with fetch_model, which verifies every file; if it stays so, it is an adapter or another "
        "architecture than its config.json says.",
        signs=(
            "SafetensorError: File does not contain tensor",
            "Error while deserializing header",
            "Required but not provided tensors:",
        ),
    ),
    Ailment(
        kind="quantize_failure",
        cause="The quantized model can't be exported: a tensor's shape or the architecture does not suit the format.",
        remedy="Choose another variant (fp8 has no groups), a tp_size by which every weight is divisible into whole "
        "groups of 128, or a newer trtllm_version.",
        signs=("Cannot export model to the model_config",),
    ),
    Ailment(
        kind="quantize_failure",
        cause="Parts of the model were put off the GPU for want of memory, where they can't be quantized.",
        remedy="Quantize on more GPUs or on a gpu_kind with more memory: the unquantized model must fit.",
        signs=("Cannot copy out of meta tensor; no data!",),
    ),
    Ailment(
        kind="quantize_failure",
        cause="The GPU ran out of memory while the model was calibrated.",
        remedy="Quantize on more GPUs or on a gpu_kind with more memory, or calibrate with shorter samples: the "
        "unquantized model and its activations must fit.",
        signs=("CUDA out of memory. Tried to allocate",),
        tools=_QUANTIZERS,
        mentions=_QUANTIZING,
    ),
    # Engines and their servers.
    Ailment(
        kind="serve_oom",
        cause="The GPU ran out of memory while the engine was loaded or answered.",
        remedy=_SERVE_OOM,
        signs=(
            "CUDA runtime error in …: out of memory",
            "Executor creation failed due to insufficient GPU memory",
            "[TensorRT-LLM][ERROR]…OutOfMemory",
        ),
    ),
    Ailment(
        kind="serve_oom",
        cause="The GPU ran out of memory while the engine was loaded.",
        remedy=_SERVE_OOM,
        signs=_NO_GPU_MEMORY,
        tools=("tritonserver", "trtllm-serve", "trtllm-bench", "trtllm-eval"),
    ),
    Ailment(
        kind="gpu_arch_mismatch",
        cause="The engine was built on another kind of GPU than it is served on.",
        remedy="Build and serve on the same gpu_kind: an engine runs on its own compute capability only.",
        signs=("The engine plan file is generated on an incompatible device",),
    ),
    Ailment(
        kind="gpu_arch_mismatch",
        cause="This image has no code for this kind of GPU.",
        remedy="Choose a gpu_kind that this trtllm_version supports (compute capability 8.0 and above), or a newer "
        "version for a newer GPU.",
        signs=("no kernel image is available for execution on the device",),
    ),
    Ailment(
        kind="build_oom_gpu",
        cause="The GPU ran out of memory while TensorRT built the engine.",
        remedy=_BUILD_OOM,
        signs=_NO_GPU_MEMORY,
        retry="smaller",
        unless_then=BUILT,
    ),
    Ailment(
        kind="timing_cache_stale",
        cause="The timing cache was written by another TensorRT, or for another kind of GPU.",
        remedy="Build without it: a new one is written.",
        signs=("The timing cache will not be used!", "caskBuilderUtils.cpp::getCaskHandle"),
        retry="drop_timing_cache",
        unless_then=BUILT,
    ),
    Ailment(
        kind="timing_cache_stale",
        cause="The timing cache was written by another TensorRT.",
        remedy="Build without it: a new one is written.",
        # A build reads no engine, so what it can't read is the cache.
        signs=("Serialization assertion …Version tag does not match",),
        retry="drop_timing_cache",
        tools=("trtllm-build",),
    ),
    Ailment(
        kind="build_oom_gpu",
        cause="The GPU had too little memory for what TensorRT tried, and in the end nothing was left that fits.",
        remedy=_BUILD_OOM,
        signs=("Engine building failed, please check",),
        mentions=("due to insufficient memory on requested size",),
        retry="smaller",
    ),
    Ailment(
        kind="engine_version_mismatch",
        cause="The engine was built by another TensorRT or TensorRT-LLM than the one that loads it.",
        remedy="Build and serve with one trtllm_version: its Triton image is in the release table; then build again.",
        signs=(
            "Serialization assertion …Version tag does not match",
            "expecting library version …got",
            "[json.exception.out_of_range.403] key '…' not found",
            "[json.exception.type_error.302] type must be …, but is",
            "Input tensor 'host_…' not found",
        ),
    ),
    Ailment(
        kind="world_size_mismatch",
        cause="The engine was built for another number of GPUs than the server was started with.",
        remedy="Start one process per rank, tp_size x pp_size in all (the repository's manifest says how), or build "
        "again for the GPUs that there are.",
        signs=(
            "Assertion failed: mpiSize == tp * pp",
            "MPI size … != TP size … * PP size",
            "MPI worldSize is expected to be equal to tp*pp",
            "Engine world size (…) != Runtime world size (",
        ),
    ),
    Ailment(
        kind="engine_version_mismatch",
        cause="The engine can't be read: most often another TensorRT built it, or its file is cut off.",
        remedy="Build and serve with one trtllm_version; where they are the same already, build the engine again.",
        signs=("Failed to deserialize cuda engine", "Engine deserialization failed"),
    ),
    Ailment(
        kind="engine_dir_missing",
        cause="The server does not find the engine where the repository says it is.",
        remedy="Package the repository again with package_repository, and mount the store at the same path as there.",
        signs=(
            "Both encoder and decoder model paths are empty",
            "Decoder (GPT) model path at … does not exist",
        ),
    ),
    Ailment(
        kind="config_invalid",
        cause="A parameter in config.pbtxt or model.yaml is missing or has a value that the backend does not know.",
        remedy="Package the repository again with package_repository, and change nothing by hand.",
        signs=(
            "Invalid gpt_model_type. Must be",
            "TrtGptModelInflightBatching requires GPT attention plugin with packed input and paged KV cache",
            "Spawning of processes was disabled in orchestrator mode, but participant IDs is missing",
            "gpu_device_ids parameter required when instance count > 1",
            "gpu_device_ids mismatch: instance",
            "'model.yaml' containing TRT-LLM engine args not found in",
            "Failed to parse YAML engine config:",
        ),
    ),
    Ailment(
        kind="gpu_oom",
        cause="The GPU ran out of memory.",
        remedy="Lower max_num_tokens, max_batch_size or kv_cache_free_gpu_memory_fraction, raise tp_size, or take a "
        "gpu_kind with more memory; see that nothing else uses the GPU.",
        signs=("CUDA out of memory. Tried to allocate", "CUDA error: out of memory"),
    ),
    Ailment(
        kind="mpi",
        cause="MPI can't start the ranks' processes.",
        remedy="Start the server as the repository's manifest says (mpirun --allow-run-as-root in a container); with "
        "MPI_ERR_UNKNOWN take another trtllm_version: the image of 1.3.0rc27 can't spawn.",
        signs=("orte_init failed", "MPI_ERR_UNKNOWN: unknown error"),
    ),
    Ailment(
        kind="port_in_use",
        cause="Another process holds a port that the server needs.",
        remedy="Stop it (`kfp-trtllm local stop` for ours), or give each server ports of its own.",
        signs=(
            "failed to start … service: …already in use",
            "Failed to bind socket to host:port",
            "tritonserver process(es) already found with PID(s)",
            "ddress already in use",
        ),
    ),
    # Hubs and tokenizers.
    Ailment(
        kind="hub_access",
        cause="The hub does not show this model to this account: the name is wrong, or it is private or gated.",
        remedy="Check source, accept the model's license on the hub, and set HF_TOKEN to a token of that account.",
        signs=(
            "Cannot access gated repo for url",
            "You are trying to access a gated repo",
            "is gated, and HF_TOKEN is",
            "Repository Not Found for url",
            "Cannot access content at:",
            "401 Client Error",
            "403 Client Error",
            "Client error '401 Unauthorized'",
            "Client error '403 Forbidden'",
            "is not a local folder and is not a valid model identifier",
            "refuses HF_TOKEN: it is wrong or has expired",
            "a private model needs HF_TOKEN",
            "the account of HF_TOKEN may not see it",
            "is forbidden (HF_TOKEN is",
        ),
    ),
    Ailment(
        kind="hub_busy",
        cause="The hub answers too many requests, ours among them.",
        remedy="Run again later: fetch_model goes on where it stopped; HF_TOKEN raises the limit.",
        signs=("429 Too Many Requests", "429 Client Error", "can't be had now: the hub answered"),
    ),
    Ailment(
        kind="hub_unreachable",
        cause="The hub can't be reached from here.",
        remedy="Unset HF_HUB_OFFLINE, let the pod reach HF_ENDPOINT, or take a source that is at hand (file://, "
        "gs://, s3://).",
        signs=(
            "We couldn't connect to '…' to load the files",
            "offline mode is enabled. To disable it, please unset",
            "can't be reached, because HF_HUB_OFFLINE is set",
            "of hf://… can't be reached at",
        ),
    ),
    Ailment(
        kind="tokenizer",
        cause="The tokenizer can't be loaded: its files are not where they should be, or transformers does not know it.",
        remedy="Package the repository again so that the checkpoint's tokenizer files go with it; an unknown class "
        "needs a newer trtllm_version.",
        signs=(
            "Tokenizer class … does not exist or is not currently imported",
            "Repo id must be in the form 'repo_name' or 'namespace/repo_name'",
            "Incorrect path_or_model_id: ",
        ),
    ),
    Ailment(
        kind="tokenizer",
        cause="The model wants to run code of its own, which is not trusted.",
        remedy="Choose a model without code of its own, or its port to transformers: we do not run code from a hub.",
        signs=(
            "contains custom code which must be executed",
            "Please pass the argument `trust_remote_code=True`",
            "This modeling file requires the following packages that were not found in your environment",
        ),
    ),
    # What was measured.
    Ailment(
        kind="accuracy_drop",
        cause="Quantization cost more accuracy than is tolerated.",
        remedy="Take variant fp8 rather than int8_sq or an int4, kv_cache_dtype auto rather than fp8 or int8, or a "
        "calibration set like your own prompts; accuracy_margin says what is tolerated.",
        signs=("[FAILED] rouge1 (…) is smaller than threshold", "The score fell …the tolerated "),
    ),
    Ailment(
        kind="accuracy_undecided",
        cause="Too few items were asked to tell whether accuracy was lost.",
        remedy="Raise accuracy_limit (0 takes all items), add accuracy_tasks, or allow a larger accuracy_margin.",
        signs=("Use more items or a larger margin.",),
    ),
    Ailment(
        kind="bench_limits",
        cause="The benchmark asks for longer sequences than the engine was built for.",
        remedy="Build with a larger max_seq_len, or benchmark with shorter prompts and answers.",
        signs=("Engine supports a max sequence of",),
    ),
    # Requests.
    Ailment(
        kind="request_too_long",
        cause="A prompt, or prompt and answer together, are longer than the engine's limits.",
        remedy="Plan again with a larger max_input_len and max_seq_len, and max_num_tokens no less than the longest "
        "prompt, or send shorter prompts.",
        signs=(
            "Prompt length (…) exceeds maximum",
            "The sum of prompt length (…should not exceed max_",
            "text_input must have at most … tokens",
            "text_input must leave room for an answer within",
            "max_tokens must be at most … behind a prompt of",
        ),
    ),
    Ailment(
        kind="decoupled",
        cause="The request's way of answering (one response, or a stream) is not the model's.",
        remedy="Ask a decoupled model through generate_stream or a gRPC stream, or package it with decoupled set to "
        "what clients use.",
        signs=(
            "HTTP end point doesn't support models with decoupled transaction policy",
            "ModelInfer RPC doesn't support models with decoupled transaction policy",
            "Streaming is only supported if model is deployed using decoupled mode",
            "generate expects model to produce exactly 1 response",
            "is using the decoupled mode and the execute function must return None",
        ),
    ),
    Ailment(
        kind="request_schema",
        cause="A request's tensors do not have the names, types or shapes that the model declares.",
        remedy="Send what the model's config.pbtxt declares; the repository's manifest names its entry model and "
        "request fields.",
        signs=(
            "expected … inputs but got … inputs for model",
            "inference input '…' data-type is '…', but model '…' expects",
            "input '…' batch size does not match other inputs",
            "Expected batch dimension to be 1",
            "Unable to parse 'data': Shape does not match true shape of 'data' field",
        ),
    ),
    # What only says that something else went wrong.
    Ailment(
        kind="convert_failure",
        cause="The conversion failed in one of its workers.",
        remedy="Read the first error of the log; a newer trtllm_version or backend pytorch may know the model.",
        signs=("Checkpoint conversion failed, please check error log",),
        symptom=True,
    ),
    Ailment(
        kind="quantize_failure",
        cause="The model does not fit the GPU in its own precision, so it was quantized in part only.",
        remedy="Quantize on more GPUs or on a gpu_kind with more memory: the unquantized model must fit.",
        signs=("Some parameters are on the meta device",),
        tools=_QUANTIZERS,
        mentions=_QUANTIZING,
    ),
    Ailment(
        kind="unsupported_model",
        cause="config.json has scaling keys that the transformers library of this image does not know.",
        remedy="Take a newer trtllm_version, whose image has a newer transformers.",
        signs=("Unrecognized keys in `rope_scaling`",),
    ),
    Ailment(
        kind="stub_crash",
        cause="The process that runs the model died.",
        remedy="Read the first error of the log: it is the model's own.",
        signs=(
            "Stub process … is not healthy",
            "Stub process is not healthy",
            "Stub process is unhealthy and it will be restarted",
            "stub process exited unexpectedly",
            "Executor worker returned error",
        ),
        symptom=True,
    ),
    Ailment(
        kind="not_ready_in_time",
        cause="The server did not become ready in the time that it was given.",
        remedy="Raise ready_timeout_seconds: a large engine takes minutes to load; if its log stands still, a rank "
        "failed and the others wait for it.",
        signs=("was not ready within … seconds",),
    ),
    Ailment(
        kind="dependent_failed",
        cause="Triton did not load a model because another one, on which it depends, failed before.",
        remedy="Mend the first error of the log: it is the other model's.",
        signs=(
            "depends on '…' which has no loaded version",
            "unexpected error when creating modelInstanceState",
        ),
        symptom=True,
    ),
)
