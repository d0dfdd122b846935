from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from kfp_trtllm.core.backends.trtllm.launch import Launch, launch
from kfp_trtllm.errors import InvalidSpec

PLAIN = "tritonserver --model-repository=/models --http-port=8000 --grpc-port=8001 --metrics-port=8002 --strict-readiness=true"
REST = "--disable-auto-complete-config --backend-config=python,shm-region-prefix-name=prefix{rank}_ --strict-readiness=true"
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
SERVER = PLAIN.removesuffix(" --strict-readiness=true")


def rank(number: int) -> str:
    only = " --model-control-mode=explicit --load-model=tensorrt_llm" if number else ""
    return f"-n 1 {SERVER}{only} {REST.format(rank=number)}"


@pytest.mark.parametrize(
    ("tp", "pp", "backend", "layout", "nodes", "command", "environment", "starts"),
    [
        (1, 1, "pytorch", "python", 1, PLAIN, {}, 1),
        (1, 1, "tensorrt", "python", 1, PLAIN, {}, 1),
        (1, 1, "tensorrt", "cpp", 1, PLAIN, {}, 1),
        (4, 1, "pytorch", "python", 1, PLAIN, AS_ROOT, 1),
        (2, 2, "tensorrt", "python", 1, PLAIN, AS_ROOT, 1),
        (2, 1, "tensorrt", "cpp", 1, f"mpirun --allow-run-as-root {rank(0)} : {rank(1)}", {}, 1),
        (2, 2, "tensorrt", "cpp", 1, f"mpirun --allow-run-as-root {rank(0)} : {rank(1)} : {rank(2)} : {rank(3)}", {}, 1),
        (8, 2, "pytorch", "python", 2, f"trtllm-llmapi-launch {PLAIN}", {}, 16),
    ],
)  # fmt: skip
def test_the_whole_command(
    tp: int, pp: int, backend: str, layout: str, nodes: int, command: str, environment: dict[str, str], starts: int
) -> None:
    found = launch(tp, pp, backend, layout, nodes=nodes)
    argv = found.command(
        repository="/models", http_port=8000, grpc_port=8001, metrics_port=8002, flags=("--strict-readiness=true",)
    )
    assert argv == tuple(command.split())
    assert (found.environment, found.ranks, found.starts) == (environment, tp * pp, starts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 1, "pytorch", "cpp"), "layout must be python with backend pytorch, but got cpp"),
        ((0, 1, "pytorch", "python"), "tp_size must be at least 1, but got 0"),
        ((1, 0, "pytorch", "python"), "pp_size must be at least 1, but got 0"),
        ((1, 1, "pytorch", "c++"), "layout must be one of cpp, python, but got 'c\\+\\+'"),
        ((1, 1, "onnxruntime", "python"), "backend must be one of pytorch, tensorrt, but got 'onnxruntime'"),
        ((4, 1, "pytorch", "python", 3), r"nodes must divide tp_size \* pp_size = 4, but got 3"),
        ((4, 1, "tensorrt", "cpp", 2), "nodes must be 1 with layout cpp, but got 2: use layout python"),
    ],
)
def test_what_can_not_be_started_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    *four, nodes = arguments if len(arguments) == 5 else (*arguments, 1)
    with pytest.raises(InvalidSpec, match=message):
        launch(*four, nodes=nodes)


def test_a_launch_survives_json() -> None:
    for found in (launch(2, 2, "tensorrt", "cpp"), launch(2, 1, "pytorch", "python")):
        assert Launch.of(json.loads(json.dumps(asdict(found)))) == found


def test_a_path_that_looks_like_a_placeholder_stays_as_it_is() -> None:
    argv = launch(1, 1, "pytorch", "python").command(
        repository="/a {http_port}/{flags}", http_port=1, grpc_port=2, metrics_port=3
    )
    assert argv[1:3] == ("--model-repository=/a {http_port}/{flags}", "--http-port=1")
