"""What runs inside Triton. The folder is copied beside each `model.py`, so its modules import nothing of kfp_trtllm.

    triton.py            Triton's requests, responses and cancellations
    service.py           text in, text out: tokens, chat template, stop strings, over any engine
    schema.py            the request's fields, their defaults and rules: the same for every backend
    tokenizer.py         tokens and text, also piece by piece
    engine.py            what an engine must do, and the table of engines
    batching.py          continuous batching over a decoder that runs rows side by side
    sampling.py          the choice of the next token
    onnxruntime_engine.py  the decoder for ONNX Runtime on a CPU
    trtllm_engine.py     TensorRT-LLM's LLM API, over a checkpoint or a built engine

Evaluation and benchmarks use the same modules: what is measured is what is served. Only `layout.py` and `cpp_layout.py`,
which write Triton repositories, stay behind.
"""
