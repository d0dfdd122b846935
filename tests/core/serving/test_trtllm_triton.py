"""Both Python layouts in the real Triton, over the stand-in for tensorrt_llm."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from google.protobuf import text_format
from kfp_trtllm.core.serving.layout import lay_out, set_options
from kfp_trtllm.core.traffic.client import Answer, generate, generate_grpc, infer
from real_triton import Server, serve
from tiny_model import write_tokenizer
from tritonclient.grpc import model_config_pb2

pytestmark = pytest.mark.slow

STANDIN = Path(__file__).parent / "standin/tensorrt_llm"
TEXT = "the quick brown fox jumps over the lazy dog"
FRACTIONS = {1: 0.45, 2: 0.4, 3: 0.3}


def add(
    work: Path, model: str, version: int, behavior: dict[str, Any], *, adapter: str = "pytorch", decoupled: bool = True
) -> Path:
    """A version with the stand-in beside model.py, where the stub's interpreter finds it."""
    engine = work / f"engine-{model}-{version}"
    write_tokenizer(engine)
    (engine / "standin.json").write_text(json.dumps({"record": "llm.json", "seconds": 0.002, **behavior}))
    lay_out(
        engine,
        work / "repository",
        model_name=model,
        version=version,
        adapter=adapter,
        decoupled=decoupled,
        max_batch_size=4 + version,
        max_input_len=100 + version,
        max_seq_len=5000,
        link=os.link,
        options={"kv_cache_config": {"free_gpu_memory_fraction": FRACTIONS[version]}},
    )
    folder = work / "repository" / model / str(version)
    shutil.copytree(STANDIN, folder / "tensorrt_llm", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Model `torch` (versions 1, 2 and 3, of which 2 dies at its third request) and `built`, which is not decoupled."""
    work = tmp_path_factory.mktemp("trtllm")
    add(work, "torch", 1, {})
    add(work, "torch", 2, {"die_at": 3})
    set_options(add(work, "torch", 3, {"fail_every": 2}), {"enable_chunked_prefill": True})
    add(work, "built", 1, {}, adapter="tensorrt", decoupled=False)
    with serve(work / "repository", work) as server:
        yield server


def root(server: Server) -> Path:
    return server.log.parent / "repository"


def test_versions_stand_side_by_side_each_with_its_own_options(triton: Server) -> None:
    assert all(triton.ready("torch", version) for version in FRACTIONS)
    for version, fraction in FRACTIONS.items():
        note = json.loads((root(triton) / f"torch/{version}/llm.json").read_text())
        own = (
            {"kv_cache_config": {"free_gpu_memory_fraction": fraction}}
            if version < 3
            else {"enable_chunked_prefill": True}
        )
        assert note["arguments"] == {
            "model": str(root(triton) / f"torch/{version}/engine"),
            "skip_tokenizer_init": True,
            "max_batch_size": 4 + version,
            "max_input_len": 100 + version,
            "max_seq_len": 5000,
            **own,
        }
    note = json.loads((root(triton) / "built/1/llm.json").read_text())
    assert note["class"] == "tensorrt_llm._tensorrt_engine"


def test_the_configuration_places_one_instance_on_no_gpu(triton: Server) -> None:
    for model in ("torch", "built"):
        text = (root(triton) / model / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (config.name, config.backend) == (model, "python")
        assert [(group.count, group.kind) for group in config.instance_group] == [
            (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
        ]


def ways(server: Server, **fields: Any) -> list[Answer]:
    return [
        generate(server.endpoint, "torch", TEXT, version=1, stream=False, **fields),
        generate(server.endpoint, "torch", TEXT, version=1, **fields),
        generate_grpc(server.endpoint, "torch", TEXT, version=1, **fields),
        infer(server.endpoint, "built", TEXT, version=1, **fields),
        generate_grpc(server.endpoint, "built", TEXT, version=1, stream=False, **fields),
    ]


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [({"max_tokens": 3}, "the quick", "length"), ({"max_tokens": 50, "stop": ["fox"]}, "the quick brown ", "stop")],
)
def test_every_way_gives_the_engines_text(triton: Server, fields: dict[str, Any], text: str, reason: str) -> None:
    for answer in ways(triton, **fields):
        assert (answer.error, answer.finish_reason) == ("", reason)
        assert answer.text == text


def test_a_stream_comes_token_by_token(triton: Server) -> None:
    url = f"{triton.endpoint.url}/v2/models/torch/versions/1/generate_stream"
    body = {"text_input": TEXT, "stream": True, "max_tokens": 9}
    with httpx.stream("POST", url, json=body) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert [event["output_tokens"] for event in events if event["text_output"]] == list(range(2, 10))
    assert events[-1]["finish_reason"] == "length"


def test_a_crowd_gets_each_its_own(triton: Server) -> None:
    prompts = [f"{n} bottles" for n in range(24)]

    def asked(prompt: str) -> Answer:
        return generate(triton.endpoint, "torch", prompt, version=1, max_tokens=40)

    alone = [asked(prompt).text for prompt in prompts]
    assert len(set(alone)) == 24
    with ThreadPoolExecutor(24) as pool:
        assert [answer.text for answer in pool.map(asked, prompts)] == alone


def test_a_cancelled_grpc_stream_is_cancelled_in_the_engine(triton: Server) -> None:
    tensors = [grpcclient.InferInput("text_input", [1], "BYTES"), grpcclient.InferInput("max_tokens", [1], "INT32")]
    tensors[0].set_data_from_numpy(np.array([TEXT.encode()], np.object_))
    tensors[1].set_data_from_numpy(np.array([4000], np.int32))
    with grpcclient.InferenceServerClient(triton.endpoint.grpc) as client:
        client.start_stream(callback=lambda result, error: None)
        client.async_stream_infer("torch", tensors, model_version="1")
        time.sleep(0.3)
        client.stop_stream(cancel_requests=True)
    aborted = root(triton) / "torch/1/aborted"
    deadline = time.monotonic() + 4  # by itself it would take 8 seconds
    while not aborted.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_failed_request_is_that_request_only(triton: Server) -> None:
    errors = [generate(triton.endpoint, "torch", TEXT, version=3, max_tokens=3).error for _ in range(4)]
    assert [bool(error) for error in errors] == [False, True, False, True]
    assert errors[1].endswith("TensorRT-LLM failed on this request (RequestError: CUDA error: out of memory).")


def test_a_version_whose_executor_dies_says_so_and_leaves_the_others_alone(triton: Server) -> None:
    def asked(version: int) -> Answer:
        return generate(triton.endpoint, "torch", TEXT, version=version, max_tokens=3)

    assert [asked(2).error for _ in range(2)] == ["", ""]
    for _ in range(2):
        assert asked(2).error.endswith("the engine has failed (RuntimeError: MPI worker exited with status 137).")
    assert asked(1).error == ""


def test_limits_are_those_of_the_version(triton: Server) -> None:
    for version in (1, 3):
        error = generate(triton.endpoint, "torch", "x" * 200, version=version, stream=False).error
        assert error == f"HTTP 400: text_input must have at most {100 + version} tokens, but got 201."


def test_an_engine_that_can_not_be_loaded_is_triton_s_own_reason(tmp_path: Path) -> None:
    add(tmp_path, "torch", 1, {"load": "CUDA driver version is insufficient"})
    add(tmp_path, "torch", 2, {})
    with pytest.raises(AssertionError, match="failed to load all models"), serve(tmp_path / "repository", tmp_path):
        pass
    log = (tmp_path / "triton.log").read_text(errors="replace")
    assert "TensorRT-LLM can't load the engine: RuntimeError: CUDA driver version is insufficient" in log
    assert "torch version 2 unloaded" in log  # versions of a model are loaded all or none
