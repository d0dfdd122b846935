"""The images' recipes: linted, consistent with the code, and installable. There is no Docker where these tests run."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
import typing
from pathlib import Path

import pytest
import yaml
from kfp_trtllm import __version__, _image
from kfp_trtllm.core.serving.layout import lay_out

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = ROOT / "containers"
IMAGES = sorted(path.parent.name for path in CONTAINERS.glob("*/Dockerfile"))
WITH_PACKAGES = sorted(path.parent.name for path in CONTAINERS.glob("*/requirements.txt"))
LOCK = (ROOT / "requirements.lock").read_text()

# In which components run that need TensorRT-LLM.
ON_GPU = ("benchmark_engine", "build_engine", "convert_checkpoint", "evaluate_accuracy")

# Never installed over a base of NVIDIA's: their versions belong together, and torch is NVIDIA's own build.
NVIDIAS = {
    "datasets",
    "huggingface-hub",
    "tensorrt",
    "tensorrt-llm",
    "torch",
    "transformers",
}

# What is known of the bases' packages, for resolving as a build would. Triton's build installs numpy<2. TensorRT-LLM's
# requirements around 1.2 fix datasets at 3.1.0 and transformers at 4.57; the others are the latest that these two allow.
KNOWN = {
    "triton-cpu": {"numpy": "1.26.4"},
    "trtllm": {
        "datasets": "3.1.0",
        "dill": "0.3.8",
        "fsspec": "2024.9.0",
        "huggingface-hub": "0.36.0",
        "multiprocess": "0.70.16",
        "numpy": "1.26.4",
        "tokenizers": "0.22.1",
        "transformers": "4.57.3",
    },
}

# Published as source alone, in Python alone: a build makes their wheels, and so does the test.
SOURCE_ONLY = ("kfp-server-api", "rouge-score", "sqlitedict", "word2number")


def load_base() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("containers_base", CONTAINERS / "base.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


base: typing.Any = load_base()


def instructions(image: str) -> list[tuple[str, str]]:
    """(keyword, rest) of each instruction, continued lines joined, comments dropped."""
    text = (CONTAINERS / image / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(keyword.upper(), rest.strip()) for keyword, _, rest in (line.partition(" ") for line in joined)]


def arguments(image: str) -> dict[str, str]:
    """Defaults of the build arguments."""
    found: dict[str, str] = {}
    for keyword, rest in instructions(image):
        if keyword == "ARG":
            name, _, default = rest.partition("=")
            found[name] = found.get(name) or default.strip('"')
    return found


def of(image: str, wanted: str) -> list[str]:
    return [rest for keyword, rest in instructions(image) if keyword == wanted]


def requirements(image: str) -> dict[str, str]:
    """Names, and the version where one is fixed."""
    text = (CONTAINERS / image / "requirements.txt").read_text()
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    names = [base.normal(re.split(r"[\[<>=!~ ]", line)[0]) for line in lines if line]
    assert len(names) == len(set(names)), image
    fixed = base.pins(text)
    return {name: fixed.get(name, "") for name in names}


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: its last line that matches the path, or a folder above it, decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!").strip("/")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(rf"{pattern}(/.*)?", path):
            verdict = not line.startswith("!")
    return verdict


def third_party(paths: list[Path]) -> set[str]:
    """Top names of what modules import, at their head or inside functions, beside the standard library and ours."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"kfp_trtllm", "triton_python_backend_utils"}


# The linter


def lint(dockerfile: str) -> list[str]:
    command = [
        Path(sys.executable).parent / "hadolint",
        "--config",
        CONTAINERS / ".hadolint.yaml",
        "--format",
        "json",
        "-",
    ]
    done = subprocess.run(command, input=dockerfile, capture_output=True, text=True, timeout=60)
    assert done.stdout, done.stderr
    return [f"{fault['line']} {fault['code']} {fault['message']}" for fault in json.loads(done.stdout)]


@pytest.mark.parametrize("image", IMAGES)
def test_the_linter_finds_nothing(image: str) -> None:
    assert lint((CONTAINERS / image / "Dockerfile").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("USER 1000:1000", "USER root", "DL3002"),
        ("FROM ${BASE}${BASE_DIGEST:+@${BASE_DIGEST}}", "FROM python:latest", "DL3007"),
        ("--no-cache-dir", "", "DL3042"),
        ('org.opencontainers.image.licenses="Apache-2.0"', 'a.b="c"', "DL3049"),
        ("&& useradd", "&& apt-get install --yes curl && useradd", "DL3008"),
        ("&& useradd", "&& [ $UID == 0 ] && useradd", "SC3014"),
    ],
)
def test_the_linter_sees_what_it_is_for(old: str, new: str, rule: str) -> None:
    dockerfile = (CONTAINERS / "cpu/Dockerfile").read_text()
    assert old in dockerfile
    assert rule in {fault.split()[1] for fault in lint(dockerfile.replace(old, new))}


def test_a_rule_that_is_ignored_has_its_reason_beside_it() -> None:
    text = (CONTAINERS / ".hadolint.yaml").read_text()
    for rule in yaml.safe_load(text).get("ignored", []):
        assert re.search(rf"- {rule}  # \w", text), rule


# The recipes


def test_every_image_of_the_code_has_its_folder_and_every_folder_its_image() -> None:
    references = {value for name, value in vars(_image).items() if name.isupper() and name != "REGISTRY"}
    assert references == {f"{_image.REGISTRY}/{image}:{__version__}" for image in IMAGES}
    assert {path.name for path in CONTAINERS.iterdir() if path.is_dir()} == set(IMAGES)


@pytest.mark.parametrize("image", IMAGES)
def test_the_base_has_a_tag_and_takes_a_digest_from_ci(image: str) -> None:
    given = arguments(image)
    assert re.fullmatch(r"[a-z0-9./-]+:[a-z0-9.-]*\d[a-z0-9.-]*", given["BASE"]), given["BASE"]
    assert given["BASE_DIGEST"] == ""
    (reference,) = of(image, "FROM")
    for digest, expected in (("", given["BASE"]), ("sha256:0a", f"{given['BASE']}@sha256:0a")):
        # Dockerfiles expand variables by the shell's rules.
        done = subprocess.run(
            ["sh", "-c", f"echo {reference}"],
            env={"BASE": given["BASE"], "BASE_DIGEST": digest},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("image", IMAGES)
def test_arguments_have_the_same_names_everywhere_and_the_version_has_no_second_home(image: str) -> None:
    given = arguments(image)
    assert set(given) - {"TORCH_INDEX", "TENSORRT_LLM"} == {"BASE", "BASE_DIGEST", "PYTHON", "VERSION"}
    assert given["VERSION"] == ""
    assert __version__ not in (CONTAINERS / image / "Dockerfile").read_text()
    for secret in ("TOKEN", "SECRET", "PASSWORD", "KEY"):
        assert not [
            rest for keyword, rest in instructions(image) if keyword in ("ARG", "ENV") and secret in rest.upper()
        ]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is_and_runs_without_root(image: str) -> None:
    labels = dict(item.split("=", 1) for text in of(image, "LABEL") for item in shlex.split(text))
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.title"] == f"kfp-trtllm {image}"
    assert labels[f"{prefix}.version"] == "${VERSION}"
    assert labels[f"{prefix}.base.name"] == "${BASE}"
    assert labels[f"{prefix}.base.digest"] == "${BASE_DIGEST}"
    assert labels[f"{prefix}.licenses"].startswith("Apache-2.0")
    assert ("LicenseRef-NVIDIA" in labels[f"{prefix}.licenses"]) == arguments(image)["BASE"].startswith("nvcr.io/")
    assert of(image, "USER") == ["1000:1000"]
    assert instructions(image)[-1][0] == "USER"
    assert of(image, "HEALTHCHECK") == ["NONE"]
    assert "PYTHONUNBUFFERED=1" in " ".join(of(image, "ENV"))


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_and_gets_into_the_context(image: str) -> None:
    for text in of(image, "COPY"):
        *sources, target = text.split()
        assert not target.startswith("/")
        for source in sources:
            assert (ROOT / source).exists(), source
            assert not ignored(source), source


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".kfp-trtllm/store/blobs",
        ".env",
        "tests/test_contract.py",
        "components/kfp_trtllm/__pycache__/cli.cpython-311.pyc",
        "components/kfp_trtllm/core/old.pyc",
        "notes.txt",
    ],
)
def test_what_no_image_needs_stays_out_of_the_context(path: str) -> None:
    assert ignored(path)


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_comes_but_from_the_context_and_packages(image: str) -> None:
    assert of(image, "ADD") == []
    text = " ".join(of(image, "RUN"))
    assert not re.search(r"\b(curl|wget|git clone|apt|apt-get)\b|https?://|git\+", text)
    assert "latest" not in text


@pytest.mark.parametrize("image", IMAGES)
def test_pip_never_chooses_versions_by_itself(image: str) -> None:
    text = " ".join(of(image, "RUN"))
    calls = re.findall(r"pip install ([^&]*)", text)
    assert len(calls) == {"cpu": 2, "triton-cpu": 1, "triton-trtllm": 0, "trtllm": 3}[image]
    for call in calls:
        assert "--no-cache-dir" in call
        if "--requirement" in call:
            assert "--constraint" in call
        else:
            _, _, what = call.split()
            assert call.split() == ["--no-cache-dir", "--no-deps", what]
            assert what == "." or (what.replace("==", " ").split()[0] in base.pins(LOCK) and what in LOCK.splitlines())
    assert "python3 base.py check" in text.partition("&&")[0]  # before anything else


@pytest.mark.parametrize("image", ["cpu", "trtllm"])
def test_where_components_run_kfp_and_the_package_are_installed_and_compared_with_the_version(image: str) -> None:
    assert "kfp" in requirements(image)
    assert 'base.py check "kfp-trtllm==${VERSION}"' in " ".join(of(image, "RUN"))
    assert [text for text in of(image, "COPY") if text.startswith("components ")]


@pytest.mark.parametrize("image", ["triton-cpu", "triton-trtllm"])
def test_where_triton_runs_neither_kfp_nor_the_package_is(image: str) -> None:
    assert "kfp" not in (requirements(image) if image in WITH_PACKAGES else {})
    assert not [text for text in of(image, "COPY") if text.startswith("components")]


def test_engines_are_built_and_served_by_one_tensorrt_llm() -> None:
    builds, serves = arguments("trtllm"), arguments("triton-trtllm")
    assert builds["TENSORRT_LLM"] == serves["TENSORRT_LLM"] == builds["BASE"].rpartition(":")[2]
    assert arguments("triton-cpu")["BASE"].partition("-")[0] == serves["BASE"].partition("-")[0]


# Their packages


@pytest.mark.parametrize("image", WITH_PACKAGES)
def test_pins_are_the_locks_and_what_is_not_pinned_is_in_the_lock(image: str) -> None:
    locked = base.pins(LOCK)
    for name, version in requirements(image).items():
        assert name in locked, name
        assert version in ("", locked[name]), name


@pytest.mark.parametrize("image", sorted(set(WITH_PACKAGES) - {"cpu"}))
def test_nothing_is_put_in_the_place_of_what_nvidia_ships(image: str) -> None:
    named = requirements(image)
    assert not NVIDIAS & set(named)
    assert not named.get("numpy")


def test_the_cpu_image_has_all_that_the_package_can_use() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {base.normal(re.split(r"[\[<>=!~ ]", line)[0]) for line in declared}
    assert set(requirements("cpu")) == names


def test_the_serving_images_have_what_travels_with_model_py(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    lay_out(
        tmp_path / "engine",
        tmp_path / "repository",
        model_name="llm",
        version=1,
        adapter="onnxruntime",
        decoupled=True,
        max_batch_size=1,
        max_input_len=1,
        max_seq_len=2,
        link=os.link,
    )
    modules = list((tmp_path / "repository/llm/1/serving").glob("*.py"))
    common = third_party([path for path in modules if not path.name.endswith("_engine.py")])
    onnxruntime = third_party([path for path in modules if path.name == "onnxruntime_engine.py"])
    assert set(requirements("triton-cpu")) == common | onnxruntime
    checked = " ".join(of("triton-trtllm", "RUN")).partition("check ")[2].partition("&&")[0]
    assert {base.normal(word.partition("==")[0]) for word in shlex.split(checked)} == common | {
        "python",
        "tensorrt-llm",
    }


_ALLOWED = """
import importlib, sys
allowed = set(sys.argv[1].split(","))
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names:
            raise ImportError(f"{name} is not in the image")
sys.meta_path.insert(0, Block())
for name in sys.argv[2:]:
    importlib.import_module(f"kfp_trtllm.{name}.run")
importlib.import_module("kfp_trtllm.cli")
"""


def test_components_that_need_a_gpu_start_on_the_packages_of_their_image() -> None:
    allowed = ",".join({"kfp_trtllm", "yaml", "_yaml", *(name.replace("-", "_") for name in requirements("trtllm"))})
    done = subprocess.run([sys.executable, "-c", _ALLOWED, allowed, *ON_GPU], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# base.py


def test_the_base_wins_over_the_lock_and_the_images_own_pins_over_both() -> None:
    lines = base.constraints(
        {"numpy": "2.1.0", "torch": "2.9.1+cu130", "requests": "2.32.5", "distro-info": "1.7build1"},
        "numpy==1.26.4\nRich==15.0.0\nrequests==2.33.0\ndistro-info==1.0\n",
        "requests==2.33.0  # kfp wants exactly this\nrich\n",
    )
    assert lines == ["distro-info==1.0", "numpy==2.1.0", "rich==15.0.0", "torch==2.9.1+cu130"]


@pytest.mark.parametrize(
    ("wanted", "faults"),
    [
        (["python==3.12", "tensorrt_llm==1.2.1", "TensorRT.LLM"], []),
        (["tensorrt_llm==1.3.0"], ["the base must have tensorrt_llm 1.3.0, but has 1.2.1+cu130."]),
        (
            ["jinja2", "python==3.11"],
            ["the base must have jinja2, but has none.", "the base must have python 3.11, but has 3.12."],
        ),
        (["kfp-trtllm=="], ["the base must have kfp-trtllm, but has none."]),
    ],
)
def test_the_check_names_what_is_missing_or_other(wanted: list[str], faults: list[str]) -> None:
    assert base.check({"python": "3.12", "tensorrt-llm": "1.2.1+cu130"}, wanted) == faults


def run_base(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CONTAINERS / "base.py", *words], capture_output=True, text=True)


def test_the_check_looks_at_the_python_that_runs_it() -> None:
    python = f"python=={sys.version_info.major}.{sys.version_info.minor}"
    assert run_base("check", python, f"kfp-trtllm=={__version__}", "NumPy").returncode == 0
    done = run_base("check", "python==2.7", "kfp==2.17.0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("the base must have python 2.7, but has 3.")


def test_the_constraints_are_what_is_installed_and_pip_can_read_them(tmp_path: Path) -> None:
    own = tmp_path / "requirements.txt"
    own.write_text("pytest==1.0\n")
    done = run_base("constraints", str(ROOT / "requirements.lock"), str(own))
    assert done.returncode == 0, done.stderr
    assert not re.search("^pytest==", done.stdout, re.MULTILINE)
    assert f"kfp-trtllm=={__version__}" in done.stdout
    (tmp_path / "constraints.txt").write_text(done.stdout)
    pip("install", "--dry-run", "--no-index", "--constraint", str(tmp_path / "constraints.txt"), "numpy", "kfp")


@pytest.mark.parametrize("words", [[], ["check"], ["constraints", "requirements.lock"], ["freeze", "a", "b"]])
def test_base_py_explains_itself(words: list[str]) -> None:
    done = run_base(*words)
    assert done.returncode == 2
    assert "python3 base.py check" in done.stderr


# Their pip lines


def pip(*words: str) -> str:
    """Runs pip; a registry that does not answer ends the test within a minute or two, with pip's own words."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "15", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "PIP_NO_INPUT": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_cpu_image_installs_what_make_setup_does(tmp_path: Path) -> None:
    if f"{sys.version_info.major}.{sys.version_info.minor}" != arguments("cpu")["PYTHON"]:
        pytest.skip("this Python is not the image's")
    report = tmp_path / "report.json"
    own = str(CONTAINERS / "cpu/requirements.txt")
    pip("install", "--dry-run", "--no-index", "--report", str(report), "-c", str(ROOT / "requirements.lock"), "-r", own)
    assert json.loads(report.read_text())["install"] == []


@pytest.mark.slow
@pytest.mark.parametrize("image", sorted(KNOWN))
def test_requirements_resolve_for_the_bases_python(image: str, tmp_path: Path) -> None:
    locked = base.pins(LOCK)
    own = CONTAINERS / image / "requirements.txt"
    (tmp_path / "constraints.txt").write_text("\n".join(base.constraints(KNOWN[image], LOCK, own.read_text())))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    if "lm-eval" in requirements(image):
        sources = [f"{name}=={locked[name]}" for name in SOURCE_ONLY]
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), *sources)
        assert len(list(wheels.glob("*-none-any.whl"))) == len(SOURCE_ONLY)
    glibc = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]  # Ubuntu 24.04 has 2.39
    platforms = [*glibc, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    report = tmp_path / "report.json"
    pip(
        *("install", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--target", str(tmp_path / "target")),
        *("--python-version", arguments(image)["PYTHON"], *(f"--platform={name}" for name in platforms)),
        *("--find-links", str(wheels), "--constraint", str(tmp_path / "constraints.txt"), "--requirement", str(own)),
        *("--report", str(report)),
    )
    chosen = {
        base.normal(item["metadata"]["name"]): item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    chosen.pop("setuptools", "")  # `pip freeze`, which writes the lock, leaves it out
    expected = {**locked, **KNOWN[image], **base.pins(own.read_text())}
    assert {name: version for name, version in chosen.items() if version != expected.get(name)} == {}
    assert set(requirements(image)) <= set(chosen)
    assert not {"nvidia-modelopt", "tensorrt", "tensorrt-llm", "torch"} & set(chosen)


# The README


def test_the_readme_tells_of_every_image_with_its_base_and_command() -> None:
    text = (CONTAINERS / "README.md").read_text()
    for image in IMAGES:
        assert f"| `{image}` |" in text
        assert f"`{arguments(image)['BASE']}`" in text
        assert (
            f'docker build -f containers/{image}/Dockerfile --build-arg "VERSION=$V" -t "{_image.REGISTRY}/{image}:$V" .'
            in text
        )
