from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.doctor.ailments import AILMENTS
from kfp_trtllm.core.doctor.diagnosis import Diagnosis
from kfp_trtllm.core.doctor.examine import examine
from kfp_trtllm.core.doctor.signs import has
from kfp_trtllm.core.evaluation.compare import compare
from kfp_trtllm.core.evaluation.results import Evaluation, Item, TaskResult
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.serving.schema import Request, RequestError, room
from kfp_trtllm.errors import BuildFailed

HERE = Path(__file__).parent
LOGS = {path.stem: path.read_text("utf-8") for path in sorted((HERE / "logs").glob("*.log"))}
HEALTHY = {path.stem: path.read_text("utf-8") for path in sorted((HERE / "healthy").glob("*.log"))}
# What may stand anywhere in a log without a meaning. That of a build stands whole: parts of it mean something when the
# build does not come to its good end.
NOISE = [
    *(line for name, log in HEALTHY.items() if name != "build" for line in log.splitlines()),
    "[06/03/2025-08:11:02] [TRT-LLM] [W] LEGACY WARNING: trtllm-build … New projects should use the PyTorch backend.",
    "[06/03/2025-08:11:05] [TRT-LLM] [W] Invalid timing cache, using freshly created one",
    "[TensorRT] WARNING: Detected invalid timing cache, setup a local cache instead",
    "[TRT] [W] UNSUPPORTED_STATESkipping tactic 2 due to insufficient memory on requested size of 33555480576 detected.",
    "",
]
# Each message as its tool writes it, by what it means.
MESSAGES = [
    ("build_oom_gpu", "[virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (no further information)"),
    ("build_oom_gpu", "[virtualMemoryBuffer.cpp::nvinfer1::StdVirtualMemoryBufferImpl::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 16654532608 bytes.)"),
    ("build_oom_gpu", "[globWriter.cpp::makeResizableGpuMemory::435] Error Code 2: OutOfMemory (Requested size was 16654532608 bytes.)"),
    ("build_oom_gpu", "Requested amount of GPU memory (33555480576 bytes) could not be allocated. There may not be enough free memory for allocation to succeed."),
    ("host_oom", "Killed"),
    ("host_oom", "build.sh: line 3:    57 Killed                  trtllm-build --checkpoint_dir /work/checkpoint"),
    ("host_oom", "Memory cgroup out of memory: Killed process 4711 (python3) total-vm:81234kB, anon-rss:61234kB"),
    ("host_oom", "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi."),
    ("cpu_oom", "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 23622320128 bytes."),
    ("cpu_oom", "terminate called after throwing an instance of 'std::bad_alloc'"),
    ("image_pull", "Back-off pulling image \"example/trtllm:1\""),
    ("unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
    ("unschedulable", "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."),
    ("shm_exhausted", "RuntimeError: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm)."),
    ("disk_full", "The node was low on resource: ephemeral-storage. Container main was using 90Gi."),
    ("no_gpu", "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    ("no_gpu", "RuntimeError: no CUDA-capable device is detected"),
    ("no_gpu", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"),
    ("engine_flow_removed", "sh: 1: trtllm-build: not found"),
    ("engine_flow_removed", "python3: can't open file '/app/examples/models/core/llama/convert_checkpoint.py': [Errno 2] No such file or directory"),
    ("engine_flow_removed", "python3: can't open file '/app/examples/quantization/quantize.py': [Errno 2] No such file or directory"),
    ("wrong_image", "unable to find 'tensorrtllm/model.py'"),
    ("wrong_image", "OSError: libnvinfer_plugin_tensorrt_llm.so.9: cannot open shared object file: No such file or directory"),
    ("wrong_image", "ImportError: libtensorrt_llm.so: cannot open shared object file: No such file or directory"),
    ("wrong_image", "ModuleNotFoundError: No module named 'tensorrt_llm'"),
    ("wrong_image", "ModuleNotFoundError: No module named 'tensorrt_llm.bindings'"),
    ("precision_unsupported", "Error Code 9: API Usage Error (Networks with FP8 Q/DQ layers require hardware with FP8 support.)"),
    ("precision_unsupported", "FP8 FMHA cannot be enabled except on Ada or Hopper or Blackwell Arch."),
    ("precision_unsupported", "RuntimeError: Unsupported SM version for FP8 block scaling GEMM"),
    ("precision_unsupported", "[TensorRT-LLM][ERROR] Assertion failed: Unsupported architecture (/src/cpp/tensorrt_llm/kernels/fmhaRunner.cpp:85)"),
    ("unsupported_model", "AutoConfig cannot load the huggingface config."),
    ("unsupported_model", "ValueError: The checkpoint you are trying to load has model type `new` but Transformers does not recognize this architecture. This could be because of an issue"),
    ("convert_failure", "RuntimeError: Required but not provided tensors:{'transformer.layers.0.attention.qkv.bias'}"),
    ("serve_oom", "[TensorRT-LLM][ERROR] [virtualMemoryBuffer.cpp::resizePhysical::127] Error Code 2: OutOfMemory (no further information)"),
    ("gpu_arch_mismatch", "[TensorRT-LLM][ERROR] CUDA runtime error in cub::DeviceSegmentedRadixSort::SortPairsDescending(nullptr): no kernel image is available for execution on the device"),
    ("timing_cache_stale", "[TensorRT] 2: [caskBuilderUtils.cpp::getCaskHandle::408] Error Code 2: Internal Error (Assertion !isGroupConv failed.)"),
    ("engine_version_mismatch", "The engine plan file is not compatible with this version of TensorRT, expecting library version 9.2.0.5 got 9.3.0.1, please rebuild."),
    ("engine_version_mismatch", "[json.exception.type_error.302] type must be array, but is number"),
    ("engine_version_mismatch", "Encountered an error in forward function: Input tensor 'host_max_kv_cache_length_0' not found; expected shape: (1)"),
    ("engine_version_mismatch", "[TRT] [E] 4: [runtime.cpp::deserializeCudaEngine::50] Error Code 4: Internal Error (Engine deserialization failed.)"),
    ("world_size_mismatch", "[TensorRT-LLM][ERROR] Assertion failed: mpiSize == tp * pp (/app/cpp/tensorrt_llm/runtime/worldConfig.cpp:61)"),
    ("world_size_mismatch", "MPI size 1 != TP size 2 * PP size 1"),
    ("world_size_mismatch", "AssertionError: Engine world size (2 * 1) != Runtime world size (1)"),
    ("engine_dir_missing", "Both encoder and decoder model paths are empty"),
    ("config_invalid", "TrtGptModelInflightBatching requires GPT attention plugin with packed input and paged KV cache."),
    ("config_invalid", "Spawning of processes was disabled in orchestrator mode, but participant IDs is missing."),
    ("config_invalid", "gpu_device_ids parameter required when instance count > 1"),
    ("config_invalid", "gpu_device_ids mismatch: instance 1"),
    ("config_invalid", "'model.yaml' containing TRT-LLM engine args not found in '/models/tensorrt_llm/1'"),
    ("config_invalid", "Failed to parse YAML engine config: while scanning"),
    ("gpu_oom", "RuntimeError: CUDA error: out of memory"),
    ("mpi", "  orte_init failed"),
    ("port_in_use", "RuntimeError: Failed to bind socket to host:port"),
    ("port_in_use", "tritonserver process(es) already found with PID(s): [17]. Use --force to kill."),
    ("port_in_use", "E0118 08:31:52.149680 840 main.cc:257] failed to start HTTP service: Unavailable - Socket '0.0.0.0:1111' already in use"),
    ("hub_access", "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: PvMw)"),
    ("hub_access", "Repository Not Found for url: https://huggingface.co/api/models/no/model."),
    ("hub_access", "Cannot access content at: https://huggingface.co/api/models/a/b."),
    ("hub_access", "httpx.HTTPStatusError: Client error '401 Unauthorized' for url 'https://huggingface.co/api/models/a/b'"),
    ("hub_access", "httpx.HTTPStatusError: Client error '403 Forbidden' for url 'https://huggingface.co/api/models/a/b'"),
    ("hub_access", "OSError: a/b is not a local folder and is not a valid model identifier listed on the hub"),
    ("hub_access", "kfp-trtllm: https://huggingface.co refuses HF_TOKEN: it is wrong or has expired."),
    ("hub_access", "hf://a/b does not exist at https://huggingface.co, or a private model needs HF_TOKEN: check the name."),
    ("hub_access", "hf://a/b does not exist at https://huggingface.co, or the account of HF_TOKEN may not see it: check the name."),
    ("hub_access", "hf://a/b is forbidden (HF_TOKEN is not set): see https://huggingface.co/a/b."),
    ("hub_busy", "429 Too Many Requests: you have reached your 'resolvers' rate limit."),
    ("hub_busy", "config.json of hf://a/b can't be had now: the hub answered 429."),
    ("hub_unreachable", "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files."),
    ("hub_unreachable", "Cannot reach https://huggingface.co/a/b: offline mode is enabled. To disable it, please unset the `HF_HUB_OFFLINE` environment variable."),
    ("hub_unreachable", "hf://a/b can't be reached, because HF_HUB_OFFLINE is set: unset it, or use file://…."),
    ("tokenizer", "Incorrect path_or_model_id: '/engines/tokenizer'. Please provide either the path to a local directory or the repo_id of a model on the Hub."),
    ("tokenizer", "ImportError: This modeling file requires the following packages that were not found in your environment: flash_attn. Run `pip install flash_attn`"),
    ("request_too_long", "Encountered an error when fetching new request: Prompt length (200) exceeds maximum input length (1)"),
    ("decoupled", "ModelInfer RPC doesn't support models with decoupled transaction policy"),
    ("decoupled", "Streaming is only supported if model is deployed using decoupled mode."),
    ("decoupled", "generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses"),
    ("decoupled", "Python model 'm_0_0' is using the decoupled mode and the execute function must return None."),
    ("request_schema", "expected 4 inputs but got 1 inputs for model 'postprocessing'"),
    ("request_schema", "[request id: <id_unknown>] input 'input_ids' batch size does not match other inputs for 'ensemble'"),
    ("request_schema", "Expected batch dimension to be 1"),
    ("request_schema", "Unable to parse 'data': Shape does not match true shape of 'data' field"),
    ("stub_crash", "Failed to process the request(s) for model instance 'm_0_0', message: Stub process is not healthy."),
    ("stub_crash", "Stub process is unhealthy and it will be restarted."),
    ("stub_crash", "Internal: Failed to initialize stub, stub process exited unexpectedly: m_0"),
    ("stub_crash", "RuntimeError: Executor worker returned error"),
]  # fmt: skip


def kind(log: str, **known: object) -> str:
    found = examine(log, **known)  # type: ignore[arg-type]
    return "" if found is None else found.kind


def diagnosis(name: str) -> Diagnosis:
    found = examine(LOGS[name])
    assert found is not None
    return found


@pytest.mark.parametrize("name", LOGS)
def test_every_log_gives_its_own_class(name: str) -> None:
    assert kind(LOGS[name]) == name.partition("-")[0]


@pytest.mark.parametrize(("meant", "message"), MESSAGES)
def test_every_message_gives_its_own_class(meant: str, message: str) -> None:
    assert kind(f"first line\n{message}\nlast line\n") == meant
    found = examine(message)
    assert found is not None
    assert found.evidence.strip("… ") in " ".join(message.split())


@pytest.mark.parametrize("name", HEALTHY)
def test_the_log_of_something_that_ended_well_has_no_diagnosis(name: str) -> None:
    assert examine(HEALTHY[name]) is None


@pytest.mark.parametrize("line", NOISE)
def test_a_harmless_line_by_itself_has_no_diagnosis(line: str) -> None:
    assert examine(line) is None


def test_no_sign_is_without_a_message_that_has_it() -> None:
    lines = [line for log in LOGS.values() for line in log.splitlines()] + [message for _, message in MESSAGES]
    unseen = {sign for ailment in AILMENTS for sign in ailment.signs if not any(has(line, sign) for line in lines)}
    # Messages of our own code and of libraries that are at hand: the tests below have them from their source.
    assert unseen == {
        "can't start trtllm-build: No such file or directory",
        "Error while deserializing header",
        "Repo id must be in the form 'repo_name' or 'namespace/repo_name'",
        "max_tokens must be at most … behind a prompt of",
        "must have … GB free, but it has",
        "no space left in the store",
        "text_input must leave room for an answer within",
    }


@given(
    name=st.sampled_from(sorted(LOGS)),
    before=st.lists(st.sampled_from([*NOISE, HEALTHY["build"]]), max_size=30),
    between=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(NOISE)), max_size=10),
)
def test_harmless_lines_before_and_between_change_nothing(
    name: str, before: list[str], between: list[tuple[int, str]]
) -> None:
    lines = LOGS[name].splitlines()
    for place, line in between:
        lines.insert(place, line)
    assert examine("\n".join([*before, *lines])) == diagnosis(name)


@given(st.permutations([*NOISE, HEALTHY["build"]]), st.sampled_from(sorted(LOGS)))
def test_the_order_of_harmless_lines_changes_nothing(noise: list[str], name: str) -> None:
    assert examine("\n".join([*noise, LOGS[name]])) == diagnosis(name)


@pytest.mark.parametrize("name", LOGS)
def test_from_the_decisive_line_on_no_later_line_changes_the_class(name: str) -> None:
    lines = LOGS[name].splitlines()
    kinds = [kind("\n".join(lines[: end + 1])) for end in range(len(lines))]
    decisive = kinds.index(name.partition("-")[0])
    assert set(kinds[decisive:]) == {kinds[-1]}


@given(
    log=st.lists(st.sampled_from([*NOISE, *LOGS.values()]) | st.text()).map("\n".join),
    status=st.sampled_from([None, 1, 137, -9, 0]),
    tool=st.sampled_from(["", "trtllm-build", "no tool"]),
)
def test_whatever_the_log_the_evidence_is_one_short_line(log: str, status: int | None, tool: str) -> None:
    found = examine(log, status=status, tool=tool)
    if status in (137, -9):
        assert found is not None
        assert found.kind == "host_oom"
    if status == 0:
        assert found is None
    if found is not None:
        assert 0 < len(found.evidence) <= 300
        assert "\n" not in found.evidence


@pytest.mark.parametrize(("status", "evidence"), [(137, "exit status 137"), (-9, "killed by signal 9")])
def test_a_killed_process_ran_out_of_memory_whatever_its_log_says(status: int, evidence: str) -> None:
    for log in ("", LOGS["precision_unsupported"]):
        found = examine(log, status=status)
        assert found is not None
        assert (found.kind, found.evidence) == ("host_oom", evidence)
    found = examine(LOGS["host_oom"], status=status)
    assert found is not None
    assert found.evidence == "Killed"


def test_a_tool_that_ended_well_has_no_diagnosis_whatever_its_log_says() -> None:
    assert examine(LOGS["build_oom_gpu"], status=0) is None


@pytest.mark.parametrize(
    ("name", "tool", "meant"),
    [
        ("engine_version_mismatch", "", "engine_version_mismatch"),
        ("engine_version_mismatch", "tritonserver", "engine_version_mismatch"),
        ("engine_version_mismatch", "/usr/local/bin/trtllm-build", "timing_cache_stale"),
        ("gpu_oom", "", "gpu_oom"),
        ("gpu_oom", "quantize.py", "quantize_failure"),
        ("gpu_oom", "modelopt", "quantize_failure"),
        ("quantize_failure-oom", "trtllm-serve", "gpu_oom"),
        ("build_oom_gpu", "trtllm-build", "build_oom_gpu"),
        ("build_oom_gpu", "trtllm-serve", "serve_oom"),
    ],
)
def test_the_program_decides_where_one_message_means_two_things(name: str, tool: str, meant: str) -> None:
    assert kind(LOGS[name], status=1, tool=tool) == meant


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("dependent_failed", "KeyError: 'tokenizer_dir'"),
        ("stub_crash", "probability tensor contains inf"),
        ("convert_failure-workers", "KeyError: 'parallel_attn_mlp_res'"),
    ],
)
def test_of_a_consequence_the_first_error_is_shown(name: str, evidence: str) -> None:
    assert evidence in diagnosis(name).evidence


def test_a_long_line_is_shortened_around_its_message() -> None:
    found = examine("prefix " * 1000 + "Unsupported model architecture: Phi4ForCausalLM " + "suffix " * 1000)
    assert found is not None
    assert len(found.evidence) <= 300
    assert found.evidence.startswith("…prefix")
    assert "Unsupported model architecture: Phi4ForCausalLM suffix" in found.evidence


def test_of_several_lines_that_tell_the_same_the_first_is_shown() -> None:
    log = LOGS["build_oom_gpu"]
    assert "resizePhysical" in diagnosis("build_oom_gpu").evidence
    found = examine("\n".join(reversed(log.splitlines())))
    assert found is not None
    assert (found.kind, "makeResizableGpuMemory" in found.evidence) == ("build_oom_gpu", True)


# The four rows of the guide that came before this project.


def test_a_build_that_runs_out_of_gpu_memory_is_tried_again_smaller() -> None:
    found = diagnosis("build_oom_gpu")
    assert found.retry == "smaller"
    assert found.remedy.startswith("Lower max_num_tokens, then max_batch_size; where that does not help, raise tp_size")


def test_an_engine_of_another_tensorrt_or_triton_version_is_to_be_built_and_served_with_one() -> None:
    found = diagnosis("engine_version_mismatch")
    assert "Current Version: 228, Serialized Engine Version: 237" in found.evidence
    assert found.remedy.startswith("Build and serve with one trtllm_version: its Triton image")


@pytest.mark.parametrize("name", ["accuracy_drop", "accuracy_drop-ours"])
def test_an_accuracy_drop_after_quantization_names_variant_cache_and_calibration(name: str) -> None:
    remedy = diagnosis(name).remedy
    assert "variant fp8 rather than int8_sq or an int4" in remedy
    assert "kv_cache_dtype auto" in remedy
    assert "calibration set" in remedy


@pytest.mark.parametrize("name", ["request_too_long", "request_too_long-pytorch", "request_too_long-ours"])
def test_requests_that_fail_for_limits_too_small_name_the_limits(name: str) -> None:
    remedy = diagnosis(name).remedy
    assert all(limit in remedy for limit in ("max_input_len", "max_seq_len", "max_num_tokens"))


# Messages from their source.


def test_the_words_of_a_tool_that_is_not_there_are_known(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as problem:
        run_tool(["trtllm-build", "--checkpoint_dir", "c"], log=tmp_path / "log", env={"PATH": str(tmp_path)})
    assert kind(str(problem.value)) == "engine_flow_removed"


@pytest.mark.parametrize(("tokens", "longest", "asked"), [(9, 8, None), (16, 16, None), (8, 8, 9)])
def test_the_words_of_a_request_that_is_too_long_are_known(tokens: int, longest: int, asked: int | None) -> None:
    with pytest.raises(RequestError) as problem:
        room(Request(text_input="a", max_tokens=asked), tokens, longest, 16)
    assert kind(str(problem.value)) == "request_too_long"


@pytest.mark.parametrize(("n", "lost", "meant"), [(400, 200, "accuracy_drop"), (200, 20, "accuracy_drop"), (10, 0, "accuracy_undecided")])  # fmt: skip
def test_the_words_of_a_failed_accuracy_gate_are_known(n: int, lost: int, meant: str) -> None:
    def evaluation(bad: int) -> Evaluation:
        items = tuple(
            Item(task="a", key=str(i), score=float(i >= bad and i % 7 > 0), prompt="p", answer="a", target="a")
            for i in range(n)
        )
        return Evaluation(tasks=(TaskResult(task="a", metric="acc", n=n, score=0.5),), items=items)

    verdict = compare(evaluation(0), evaluation(lost), margin=0.05)
    assert verdict.verdict == "failed"
    assert kind(verdict.reason) == meant


def test_the_words_of_full_disks_taken_ports_and_too_large_arrays_are_known() -> None:
    assert kind(str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) == "disk_full"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError) as problem:
        socket.create_server(taken.getsockname())
    assert kind(str(problem.value)) == "port_in_use"
    with pytest.raises(MemoryError) as too_large:
        np.zeros((1 << 30, 1 << 30), np.float32)
    assert kind(str(too_large.value)) == "cpu_oom"


def test_the_words_of_the_store_and_of_a_source_about_a_full_disk_are_known() -> None:
    from kfp_trtllm.core.sources.files import need_space
    from kfp_trtllm.errors import SourceError

    with pytest.raises(SourceError) as problem:
        need_space(HERE, 1 << 60)
    assert kind(str(problem.value)) == "disk_full"
    assert (
        kind("no space left in the store /store (0.00 GB free): free some, or run `kfp-trtllm store gc`.")
        == "disk_full"
    )


def test_the_words_of_damaged_weights_and_of_a_path_that_is_no_model_are_known(tmp_path: Path) -> None:
    from huggingface_hub.utils import validate_repo_id
    from safetensors import SafetensorError, safe_open

    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SafetensorError) as damaged:
        safe_open(tmp_path / "model.safetensors", framework="numpy")
    assert kind(str(damaged.value)) == "convert_failure"
    with pytest.raises(ValueError, match="Repo id") as path:
        validate_repo_id("/engines/tokenizer/of/this")
    assert kind(str(path.value)) == "tokenizer"


@pytest.fixture(scope="module")
def triton() -> bytes:
    """The real server's own texts."""
    from kfp_trtllm.core.targets.local.triton import installation

    found = installation()
    files = [found.server, found.stub, found.backend / "libtriton_python.so", *found.libraries.glob("libtritonserver*")]
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.parametrize(
    "sign",
    [
        "HTTP end point doesn't support models with decoupled transaction policy",
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
        "generate expects model to produce exactly 1 response",
        "is using the decoupled mode and the execute function must return None",
        "unable to find backend library for backend '${",
        "depends on '…' which has no loaded version",
        "Unable to parse 'data': Shape does not match true shape of 'data' field",
        "Unable to initialize shared memory key …No space left on device",
        "inference input '…' data-type is '…', but model '…' expects",
        "input '…' batch size does not match other inputs",
        "expected … inputs but got … inputs for model",
        "Stub process … is not healthy",
        "Stub process is not healthy",
        "failed to start … service: …already in use",
    ],
)
def test_signs_of_triton_are_its_own_words(triton: bytes, sign: str) -> None:
    assert any(sign in ailment.signs for ailment in AILMENTS)
    for piece in sign.removesuffix("${").split("…"):
        if piece != "No space left on device":  # the system's
            assert piece.strip(" :,'").encode() in triton, piece
