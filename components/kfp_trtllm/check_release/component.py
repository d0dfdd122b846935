"""The component check_release: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def check_release(
    store: str,
    source: str = "sample://smollm2-135m",
    model_name: str = "smollm2-135m",
    allow_pickle: bool = False,
    backend: str = "onnxruntime",
    variants: list[str] = ["int4"],
    max_batch_size: int = 8,
    max_input_len: int = 1024,
    max_seq_len: int = 2048,
    memory_limit_gb: float = 0.0,
    trtllm_version: str = "",
    gpu_kind: str = "",
    gpu_count: str = "",
    tp_size: int = 1,
    pp_size: int = 1,
    max_num_tokens: int = 0,
    kv_cache_dtype: str = "auto",
    build_options: dict = {},
    calibration_dataset: str = "",
    calibration_size: int = 0,
    allow_fallback: bool = False,
    build_image: str = "",
    gpu_task_cpu: str = "",
    gpu_task_memory: str = "",
    accuracy_gate: bool = True,
    accuracy_tasks: list[str] = ["kfp_core"],
    accuracy_limit: int = 0,
    accuracy_margin: float = 0.05,
    accuracy_alpha: float = 0.05,
    seed: int = 0,
    accuracy_subject: str = "engine",
    accuracy_rule: str = "paired",
    benchmark_concurrency: list[int] = [1, 8],
    benchmark_max_tokens: int = 32,
    model_version: int = 1,
    base_repository: str = "",
    decoupled: bool = True,
    layout: str = "python",
    kv_cache_free_gpu_memory_fraction: float = 0.9,
    repository: str = "",
    target: str = "local",
    ready_timeout_seconds: int = 300,
    smoke_prompt: str = "What is the capital of France?",
    smoke_expect: str = "",
    smoke_max_tokens: int = 24,
    smoke_timeout_seconds: int = 60,
    rollout_steps: list[int] = [10, 50, 100],
    rollout_alpha: float = 0.05,
    rollout_margin: float = 1.5,
    max_error_rate: float = 0.02,
    max_slow_rate: float = 0.1,
    slo_ttft_ms: float = 0.0,
    slo_itl_ms: float = 0.0,
    min_step_requests: int = 20,
    rollout_deadline_seconds: int = 900,
    probe_prompts: list[str] = [],
    probe_max_tokens: int = 12,
    probe_timeout_seconds: float = 30.0,
) -> None:
    """Refuses a release's wrong parameters before anything is spent.

    Builds the spec of every later step. The first task of every pipeline; never retried, never cached.

    Args:
        store: URL of the store.
        source: Where the model comes from, for example "hf://org/name@revision", "file:///models/x" or
            "sample://smollm2-135m".
        model_name: Name that clients ask for.
        allow_pickle: Whether to take weights that exist only as pickles, which can run code when they are read.
        backend: What executes the model: onnxruntime on a CPU; pytorch (TensorRT-LLM's LLM API) or tensorrt (built
            engines, TensorRT-LLM up to 1.2.1) on GPUs.
        variants: Precisions to build and choose from.
        max_batch_size: Requests that run at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        memory_limit_gb: Memory that the engine may need on a CPU, in GB; 0 takes what this machine has.
        trtllm_version: TensorRT-LLM to build with and to serve with; empty takes the newest that has both backends.
        gpu_kind: Kind of the GPUs, for example l4, a100-80 or h100.
        gpu_count: GPUs that a build and a server get: tp_size times pp_size.
        tp_size: Tensor parallel ranks: each layer is spread over so many GPUs.
        pp_size: Pipeline parallel ranks: the layers are dealt out to so many groups of GPUs.
        max_num_tokens: Tokens of all requests that one step computes; 0 takes the tool's default.
        kv_cache_dtype: Precision of keys and values: auto (that of the activations), fp8 or int8.
        build_options: Further options of the build tool, in its own names, such as {"gemm_plugin": "auto"}. Those of
            old guides (max_output_len, use_fp8, gemm_plugin float8, …) are understood and translated.
        calibration_dataset: What quantization is calibrated with: empty takes our own texts; else a .jsonl or .txt
            file, or the name of a data set on the Hugging Face hub.
        calibration_size: Texts of it to use; 0 takes the backend's default.
        allow_fallback: Whether backend pytorch may be used where tensorrt does not know the model.
        build_image: The image that converts and builds, as a whole reference: what it holds decides what is built.
        gpu_task_cpu: CPU cores that a task on a GPU asks for, as Kubernetes writes them; empty on a CPU.
        gpu_task_memory: Memory that a task on a GPU asks for; a conversion holds the whole checkpoint.
        accuracy_gate: False measures nothing and lets every engine pass.
        accuracy_tasks: lm-evaluation-harness tasks or groups; kfp_core is ours and needs no network.
        accuracy_limit: Items per task at most; 0 takes all.
        accuracy_margin: Drop in the mean score that is tolerated, for example 0.05 for five points.
        accuracy_alpha: Chance taken of passing an engine that is worse by more than the margin.
        seed: Of the tasks' sampling.
        accuracy_subject: What is asked: the engine; or the checkpoint that it is (to be) built from, with quantization
            simulated, so that the verdict is known before a GPU builds anything.
        accuracy_rule: How it is judged: paired (items side by side, against the margin) or threshold (NVIDIA's own
            arithmetic for acceptance tests: the candidate's score against the reference's, without pairing).
        benchmark_concurrency: Numbers of requests that run at once, each measured.
        benchmark_max_tokens: Length of an answer in tokens.
        model_version: Triton's numeric version of this engine.
        base_repository: Digest of an earlier repository of the same model whose other versions are to be served beside
            this one; empty for none.
        decoupled: True serves /generate, /generate_stream and gRPC streams; False serves /infer, with no streams.
        layout: python is our own model.py, which serves every backend and several versions side by side; cpp is
            NVIDIA's C++ backend with its ensemble, for backend tensorrt and one version.
        kv_cache_free_gpu_memory_fraction: Share of the GPUs' free memory that keys and values get, over all versions
            that are served side by side.
        repository: Digest of the repository to deploy; empty where the run makes it.
        target: Where Triton runs: local.
        ready_timeout_seconds: Time for the revision to load its model.
        smoke_prompt: A prompt that the model must answer.
        smoke_expect: Regular expression that the answer must match somewhere; empty takes any text.
        smoke_max_tokens: Length of the answer in tokens.
        smoke_timeout_seconds: Time for one answer.
        rollout_steps: Percent of traffic that the canary gets, step by step; the last must be 100.
        rollout_alpha: Chance taken of a wrong decision, in either direction.
        rollout_margin: A rate of bad answers up to this many times stable's counts as no worse.
        max_error_rate: Share of failed or empty answers that is tolerated whatever stable does.
        max_slow_rate: Share of answers slower than an SLO that is tolerated whatever stable does.
        slo_ttft_ms: Time to the first token, in ms, beyond which an answer is slow; 0 takes 3 times stable's median in
            a short calibration.
        slo_itl_ms: Mean time between tokens, in ms, beyond which an answer is slow; 0 as above.
        min_step_requests: Paired probes per step before the next one.
        rollout_deadline_seconds: Time after which missing evidence means inconclusive, and back to stable.
        probe_prompts: Prompts to probe with; empty takes ours.
        probe_max_tokens: Length of a probe's answer in tokens.
        probe_timeout_seconds: An answer that takes longer is an error.
    """
    from kfp_trtllm.check_release.run import run
    from kfp_trtllm.check_release.spec import Release
    from kfp_trtllm.core.step import step

    with step("check_release"):
        run(
            Release(
                store=store,
                source=source,
                model_name=model_name,
                allow_pickle=allow_pickle,
                backend=backend,
                variants=variants,
                max_batch_size=max_batch_size,
                max_input_len=max_input_len,
                max_seq_len=max_seq_len,
                memory_limit_gb=memory_limit_gb,
                trtllm_version=trtllm_version,
                gpu_kind=gpu_kind,
                gpu_count=gpu_count,
                tp_size=tp_size,
                pp_size=pp_size,
                max_num_tokens=max_num_tokens,
                kv_cache_dtype=kv_cache_dtype,
                build_options=build_options,
                calibration_dataset=calibration_dataset,
                calibration_size=calibration_size,
                allow_fallback=allow_fallback,
                build_image=build_image,
                gpu_task_cpu=gpu_task_cpu,
                gpu_task_memory=gpu_task_memory,
                accuracy_gate=accuracy_gate,
                accuracy_tasks=accuracy_tasks,
                accuracy_limit=accuracy_limit,
                accuracy_margin=accuracy_margin,
                accuracy_alpha=accuracy_alpha,
                seed=seed,
                accuracy_subject=accuracy_subject,
                accuracy_rule=accuracy_rule,
                benchmark_concurrency=benchmark_concurrency,
                benchmark_max_tokens=benchmark_max_tokens,
                model_version=model_version,
                base_repository=base_repository,
                decoupled=decoupled,
                layout=layout,
                kv_cache_free_gpu_memory_fraction=kv_cache_free_gpu_memory_fraction,
                repository=repository,
                target=target,
                ready_timeout_seconds=ready_timeout_seconds,
                smoke_prompt=smoke_prompt,
                smoke_expect=smoke_expect,
                smoke_max_tokens=smoke_max_tokens,
                smoke_timeout_seconds=smoke_timeout_seconds,
                rollout_steps=rollout_steps,
                rollout_alpha=rollout_alpha,
                rollout_margin=rollout_margin,
                max_error_rate=max_error_rate,
                max_slow_rate=max_slow_rate,
                slo_ttft_ms=slo_ttft_ms,
                slo_itl_ms=slo_itl_ms,
                min_step_requests=min_step_requests,
                rollout_deadline_seconds=rollout_deadline_seconds,
                probe_prompts=probe_prompts,
                probe_max_tokens=probe_max_tokens,
                probe_timeout_seconds=probe_timeout_seconds,
            )
        )
