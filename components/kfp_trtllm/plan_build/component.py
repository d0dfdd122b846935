"""The component plan_build: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def plan_build(
    checkpoint: dsl.Input[dsl.Model],
    store: str,
    plan: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    backend: str = "onnxruntime",
    variant: str = "int4",
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
) -> None:
    """Plans an engine on a CPU, before anything is spent on building it.

    Computes the memory that it will need, refuses what cannot work and names what would, and decides the key that
    the engine is kept under.

    Args:
        checkpoint: Manifest of the checkpoint.
        store: URL of the store.
        backend: What executes the model: onnxruntime on a CPU; pytorch (TensorRT-LLM's LLM API) or tensorrt (built
            engines, TensorRT-LLM up to 1.2.1) on GPUs.
        variant: Precision; which ones there are depends on the backend.
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

    Returns:
        plan: The decided build, as JSON.
        report: Memory by part.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.plan_build.run import run
    from kfp_trtllm.plan_build.spec import Planning

    with step("plan_build"):
        run(
            Planning(
                store=store,
                backend=backend,
                variant=variant,
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
            ),
            checkpoint=checkpoint.path,
            plan=plan.path,
            report=report.path,
        )
