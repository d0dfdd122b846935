"""The real engine on real, tiny engines that the real builder wrote."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from kfp_trtllm.core.serving.engine import Settings, open_engine
from kfp_trtllm.core.serving.onnxruntime_engine import OrtDecoder
from kfp_trtllm.core.serving.schema import Request, RequestError
from kfp_trtllm.core.serving.service import Piece, Service
from tiny_model import LIMITS, TEXTS

pytestmark = pytest.mark.slow

PROMPTS = ["hello", *TEXTS, "the " * 30]
Open = Callable[..., Service]


def ask_all(service: Service, requests: list[Request]) -> list[list[Piece]]:
    """All requests at once; the pieces of each."""
    answers: list[list[Piece]] = [[] for _ in requests]
    done = [threading.Event() for _ in requests]

    def listener(index: int) -> Callable[[Piece], None]:
        def on_piece(piece: Piece) -> None:
            answers[index].append(piece)
            if piece.last:
                done[index].set()

        return on_piece

    for index, request in enumerate(requests):
        service.submit(request, listener(index))
    for event in done:
        assert event.wait(60)
    return answers


def ask(service: Service, prompt: str, **fields: object) -> Piece:
    (pieces,) = ask_all(service, [Request(text_input=prompt, **fields)])  # type: ignore[arg-type]
    (piece,) = pieces
    return piece


@pytest.mark.parametrize("variant", ["fp32", "int4", "int8"])
def test_batched_answers_are_those_of_one_request_at_a_time(open_service: Open, variant: str) -> None:
    service = open_service(variant)
    alone = [ask(service, prompt, max_tokens=20 + 7 * n).text for n, prompt in enumerate(PROMPTS)]
    # Different lengths, more requests than rows: rows end, move and are taken over all the time.
    together = ask_all(
        service, [Request(text_input=p, max_tokens=20 + 7 * n) for n, p in enumerate(PROMPTS)] * 3
    )  # fmt: skip
    assert [pieces[-1].text for pieces in together] == alone * 3
    assert len(set(alone)) == len(alone), "the model answers everything alike, so this shows nothing"
    assert all(len(text) > 10 for text in alone)


def test_a_long_prompt_read_in_chunks_is_the_prompt_read_at_once(open_service: Open) -> None:
    prompt = "water boils at one hundred degrees " * 40
    chunked, whole = open_service(max_input_len=500), open_service(max_input_len=500)
    whole.engine._decoder.chunk = 500  # type: ignore[attr-defined]
    whole.engine._decoder._logits = np.zeros((500, whole.engine._decoder._logits.shape[1]), np.float32)  # type: ignore[attr-defined]
    assert len(chunked.tokens(Request(text_input=prompt))) > 3 * 64
    assert ask(chunked, prompt, max_tokens=40) == ask(whole, prompt, max_tokens=40)


def test_logits_are_those_of_transformers(engines: dict[str, Path], open_service: Open) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(engines["fp32"].parent / "checkpoint")
    tokens = np.random.default_rng(0).integers(2, 400, 150).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    found = open_service().engine.logits(tokens)  # type: ignore[attr-defined]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_loglikelihoods_are_those_of_the_logits(open_service: Open) -> None:
    service = open_service()
    random = np.random.default_rng(1)
    contexts = [random.integers(2, 400, size).tolist() for size in (1, 5, 70, 130)]
    pairs = [(context, random.integers(2, 400, size).tolist()) for context in contexts for size in (1, 3, 90)]
    best = [int(service.engine.logits(contexts[1])[-1].argmax())]  # type: ignore[attr-defined]
    pairs.append((contexts[1], best))
    found = service.engine.loglikelihoods(pairs)  # type: ignore[attr-defined]
    for (context, continuation), (total, greedy) in zip(pairs, found, strict=True):
        logits = service.engine.logits([*context, *continuation])[len(context) - 1 : -1].astype(np.float64)  # type: ignore[attr-defined]
        scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert total == pytest.approx(scores[np.arange(len(continuation)), continuation].sum(), rel=1e-5)
        assert greedy == (logits.argmax(axis=1) == continuation).all()
    assert found[-1][1]
    assert service.engine.loglikelihoods(pairs) == found  # type: ignore[attr-defined]


def test_loglikelihoods_do_not_mix_with_requests(open_service: Open) -> None:
    service = open_service()
    pairs = [([5, 6, 7, *range(20, 60)], [8, 9]), ([5, 6, 7], [9])]
    alone, expected = service.engine.loglikelihoods(pairs), ask(service, TEXTS[0], max_tokens=300).text  # type: ignore[attr-defined]
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(ask(service, TEXTS[0], max_tokens=300).text))
    thread.start()
    while thread.is_alive():
        assert service.engine.loglikelihoods(pairs) == alone  # type: ignore[attr-defined]
    assert texts == [expected]


def test_sampled_answers_depend_on_the_seed_and_not_on_neighbors(open_service: Open) -> None:
    service = open_service()
    request = Request(text_input="hello", max_tokens=60, temperature=1.0, top_p=0.95, top_k=40, seed=11)
    ((alone,),) = ask_all(service, [request])
    neighbors = [Request(text_input=p, max_tokens=90, temperature=1.5, seed=n) for n, p in enumerate(PROMPTS)]
    crowd = ask_all(service, [*neighbors[:3], request, *neighbors[3:], request])
    assert crowd[3] == [alone] == crowd[-1]
    other = Request(text_input="hello", max_tokens=60, temperature=1.0, top_p=0.95, top_k=40, seed=12)
    assert ask_all(service, [other])[0][0].text != alone.text


def test_a_stream_is_the_answer_in_pieces_without_half_characters(open_service: Open) -> None:
    service = open_service()
    for seed in range(6):
        fields = {"max_tokens": 80, "temperature": 2.0, "seed": seed}
        whole = ask(service, "日本語 🙂", **fields)
        (pieces,) = ask_all(service, [Request(text_input="日本語 🙂", stream=True, **fields)])  # type: ignore[arg-type]
        assert "".join(piece.text for piece in pieces) == whole.text
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1].finish_reason == whole.finish_reason
        counts = [piece.output_tokens for piece in pieces]
        assert counts == sorted(counts)
        assert counts[-1] == whole.output_tokens
        assert all(piece.text for piece in pieces[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_wherever_tokens_end(open_service: Open, stream: bool) -> None:
    service = open_service()
    whole = ask(service, "hello", max_tokens=60).text
    for start, end in ((10, 11), (10, 17), (3, 20), (len(whole) // 2, len(whole) // 2 + 2)):
        stop = whole[start:end]
        request = Request(text_input="hello", max_tokens=60, stop=("\0never", stop), stream=stream)
        (pieces,) = ask_all(service, [request])
        assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
        assert pieces[-1].finish_reason == "stop"
        assert pieces[-1].output_tokens < 60


def test_the_end_token_ends_the_answer_and_is_not_counted(engines: dict[str, Path], tmp_path: Path) -> None:
    service = Service(engines["fp32"], Settings(adapter="onnxruntime", **LIMITS))
    prompt = service.tokens(Request(text_input="hello"))
    tokens: list[int] = []
    logits = service.engine.logits  # type: ignore[attr-defined]
    for _ in range(6):
        tokens.append(int(logits([*prompt, *tokens])[-1].argmax()))
    service.close()
    folder = shutil.copytree(engines["fp32"], tmp_path / "engine")
    config = json.loads((folder / "genai_config.json").read_text())
    end = next(token for token in reversed(tokens) if tokens.count(token) == 1)
    config["model"]["eos_token_id"] = [1, end]
    (folder / "genai_config.json").write_text(json.dumps(config))
    service = Service(folder, Settings(adapter="onnxruntime", **LIMITS))
    piece = ask(service, "hello", max_tokens=60)
    assert (piece.finish_reason, piece.output_tokens) == ("stop", tokens.index(end))
    service.close()


def test_a_request_that_breaks_a_rule_does_not_reach_the_engine(open_service: Open) -> None:
    service = open_service(max_seq_len=100)
    with pytest.raises(RequestError, match="text_input must have at most 64 tokens, but got"):
        service.submit(Request(text_input="x" * 200), lambda piece: None)
    with pytest.raises(RequestError, match="max_tokens must be at most"):
        service.submit(Request(text_input="x", max_tokens=1000), lambda piece: None)
    assert "requests" not in service.engine.counters()
    assert ask(service, "x", max_tokens=98).finish_reason == "length"  # <s> and x and 98 more: exactly all there is


def test_cancelling_frees_the_row_at_once(open_service: Open) -> None:
    service = open_service(max_batch_size=1)
    ended = threading.Event()
    handle = service.submit(Request(text_input="x", max_tokens=15000), lambda piece: ended.set())
    time.sleep(0.2)
    handle.cancel()
    assert ended.wait(2)
    before = service.engine.counters()["output_tokens"]
    assert before < 15000
    assert ask(service, "x", max_tokens=3).finish_reason == "length"
    assert service.engine.counters()["output_tokens"] == before + 3


def test_an_idle_engine_uses_no_cpu(open_service: Open) -> None:
    service = open_service()
    ask(service, "hello", max_tokens=50)
    began = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began < 0.05


def test_what_the_decoder_can_not_feed_is_refused_by_name(engines: dict[str, Path], tmp_path: Path) -> None:
    settings = Settings(adapter="onnxruntime", **LIMITS)

    def changed(name: str, change: Callable[[onnx.ModelProto, dict], None]) -> Path:  # type: ignore[type-arg]
        folder = shutil.copytree(engines["fp32"], tmp_path / name)
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        config = json.loads((folder / "genai_config.json").read_text())
        change(model, config)
        onnx.save(model, folder / "model.onnx")
        (folder / "genai_config.json").write_text(json.dumps(config))
        return folder

    def picture(model: onnx.ModelProto, config: dict) -> None:  # type: ignore[type-arg]
        model.graph.input.append(onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [1]))

    def layers(model: onnx.ModelProto, config: dict) -> None:  # type: ignore[type-arg]
        config["model"]["decoder"]["num_hidden_layers"] = 3

    def context(model: onnx.ModelProto, config: dict) -> None:  # type: ignore[type-arg]
        config["model"]["context_length"] = 100

    with pytest.raises(ValueError, match="no inputs but tokens, masks and a cache, but got pixel_values"):
        open_engine(changed("picture", picture), settings)
    with pytest.raises(ValueError, match=r"lacks inputs that genai_config.json names: past_key_values.2.key"):
        open_engine(changed("layers", layers), settings)
    with pytest.raises(ValueError, match="max_seq_len must be at most 100"):
        open_engine(changed("context", context), settings)
    (changed("broken", context) / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"model.onnx can't be loaded"):
        OrtDecoder(tmp_path / "broken", Settings(adapter="onnxruntime", **{**LIMITS, "max_seq_len": 80}))
    with pytest.raises(ValueError, match="adapter must be one of onnxruntime, pytorch, tensorrt, but got 'vllm'"):
        open_engine(engines["fp32"], Settings(adapter="vllm", **LIMITS))
