"""What cannot start where it is placed: `plan` warns of it, `run` refuses it before it begins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command import Run
from test_costs import MODEL, sampling, training

from r1pipe.costs.estimate import make_estimator
from r1pipe.costs.placement import Misfit, Room, misfits, mistake
from r1pipe.costs.work import Cost, ModelInfo
from r1pipe.engine_settings import TrainRun
from r1pipe.errors import StageError
from r1pipe.generator_settings import SampleRun
from r1pipe.launch.rank import gpu_of
from r1pipe.machine import Gpu, Machine, visible_gpus
from r1pipe.manifest import load_manifest
from r1pipe.method_params.runs import GrpoRun
from r1pipe.settings import ModelParams, Placement
from r1pipe.store.store import Store

R1 = Path(__file__).resolve().parent.parent / "manifests" / "r1.yaml"
H100 = Gpu("H100", 80 * 10**9, "580")
VLLM = Placement("vllm", "cuda", is_bf16=True, memory_frac=0.9, memory_frac_beside=0.45)
ZERO3 = Placement("deepspeed", "cuda", 512, 3, is_bf16=True)
LARGE = ModelInfo(7168, 61, 18432, 129280, 576, 24576, 671 * 10**9, 37 * 10**9, num_heads=128)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_NUM_NODES", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def room(number: int) -> Room:
    return Room(Machine("here", "cpu", 2, 1 << 34, (H100,) * number))


def texts(run: TrainRun | SampleRun, number: int) -> list[tuple[str, str]]:
    return [(each.path, each.text) for each in misfits(run, None, room(number))]


@pytest.mark.parametrize(
    ("told", "number"),
    [(None, 4), ("", 0), ("-1", 0), ("2", 1), ("0,1,-1,2", 2), ("0,1,2,3,4,5", 4), ("GPU-a", 1)],
)
def test_visible_gpus_are_those_that_cuda_would_see(told: str | None, number: int) -> None:
    environ = {} if told is None else {"CUDA_VISIBLE_DEVICES": told}
    assert visible_gpus([H100] * 4, environ) == number


def test_more_processes_than_gpus_cannot_start_here() -> None:
    engine = {"backend": "deepspeed", "num_processes": 8}
    run = TrainRun.model_validate({"device": "cuda", "engine": engine})
    assert texts(run, 8) == []
    ((path, text),) = texts(run, 4)
    assert path == "run.engine.num_processes"
    assert text.startswith(
        "run.engine.num_processes: 8 processes need a GPU each, and this machine"
    )
    assert "has 4; set fewer, or start it on several nodes" in text


def test_what_other_nodes_compute_needs_no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = {"backend": "deepspeed", "num_processes": 64}
    run = TrainRun.model_validate({"device": "cuda", "engine": engine})
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "8")
    assert texts(run, 0) == []
    generator = {"backend": "vllm", "cluster": "ray", "data_parallel": 64}
    assert texts(SampleRun.model_validate({"device": "cuda", "generator": generator}), 0) == []
    actors = {"backend": "transformers", "cluster": "ray", "data_parallel": 64}
    assert texts(SampleRun.model_validate({"device": "cuda", "generator": actors}), 0) == []
    beside = {"generator": actors, "device": "cuda"}
    assert texts(GrpoRun.model_validate(beside), 1) == [], "the trainer's own"
    assert [path for path, _ in texts(GrpoRun.model_validate(beside), 0)] == ["run.device"]
    server = {"backend": "openai", "url": "http://localhost:8000/v1"}
    assert texts(SampleRun.model_validate({"device": "cuda", "generator": server}), 0) == []


def test_engines_times_their_shards_are_held_against_the_gpus() -> None:
    generator = {"backend": "vllm", "tensor_parallel": 2, "data_parallel": 4}
    run = SampleRun.model_validate({"device": "cuda", "generator": generator})
    assert texts(run, 8) == []
    ((path, text),) = texts(run, 7)
    assert path == "run.generator.tensor_parallel"
    assert "tensor_parallel x data_parallel are 8 GPUs, and this machine has 7;" in text
    assert texts(run.model_copy(update={"device": "cpu"}), 0) == []


def test_a_stage_on_a_gpu_needs_one() -> None:
    assert texts(TrainRun(device="cuda"), 1) == []
    assert texts(TrainRun(device="cuda"), 0) == [
        (
            "run.device",
            "run.device: cuda needs a GPU, and this machine has none that may be used; set"
            " run.device: cpu",
        )
    ]


def test_devices_that_share_heads_divide_their_number() -> None:
    def found(num_heads: int | None) -> list[Misfit]:
        work = sampling(replace(VLLM, shards=3), model=replace(MODEL, num_heads=num_heads))
        return list(misfits(SampleRun(), Cost({}, sampling=(work,)), room(8)))

    path = "run.generator.tensor_parallel"
    text = "3 does not divide the model's 8 attention heads; use one of 1, 2, 4, 8"
    assert found(8) == [Misfit(path, f"{path}: {text}")]
    assert found(12) == found(None) == []


def test_devices_that_share_an_engine_share_its_key_value_heads() -> None:
    def found(shards: int, num_kv_heads: int | None) -> list[Misfit]:
        model = replace(MODEL, num_heads=24, num_kv_heads=num_kv_heads)
        work = sampling(replace(VLLM, shards=shards), model=model)
        return list(misfits(SampleRun(), Cost({}, sampling=(work,)), room(24)))

    path = "run.generator.tensor_parallel"
    text = "6 neither divides the model's 4 key-value heads nor is a multiple of them; use one of"
    assert found(6, 4) == [Misfit(path, f"{path}: {text} 1, 2, 4, 8, 12, 24")]
    assert found(2, 4) == found(4, 4) == found(8, 4) == found(6, None) == []
    assert found(6, 1) == [], "latent attention"


def test_positions_are_shared_by_a_divisor_of_the_heads() -> None:
    place = replace(ZERO3, processes=8, sequence_parallel=4)
    work = training(place, model=replace(MODEL, num_heads=6))
    (found,) = misfits(TrainRun(), Cost({}, training=(work,)), room(8))
    assert found.path == "run.engine.sequence_parallel"
    assert "4 does not divide the model's 6 attention heads; use one of 1, 2, 3, 6" in found.text


def test_an_engine_whose_weights_do_not_fit_is_named() -> None:
    # 671e9 weights of 2 bytes over 16 GPUs: 83.9 GB each, over 0.9 x 80 GB; over 32 they fit
    work = sampling(replace(VLLM, processes=16, shards=16), model=LARGE)
    (found,) = misfits(SampleRun(), Cost({}, sampling=(work,)), room(8))
    assert "78.1 GiB of weights do not fit 90% of a GPU's 74.5 GiB" in found.text
    assert found.is_certain
    (guess,) = misfits(SampleRun(), Cost({}, sampling=(work,)), room(0))
    assert not guess.is_certain  # of what GPUs there are elsewhere
    fits = sampling(replace(VLLM, processes=32, shards=32), model=LARGE)
    assert not list(misfits(SampleRun(), Cost({}, sampling=(fits,)), room(8)))


def test_a_mixture_of_experts_that_no_node_holds_is_planned_only() -> None:
    (found,) = misfits(TrainRun(), Cost({}, training=(training(ZERO3, model=LARGE),)), room(0))
    assert found.text.startswith("plan only: needs expert parallelism")
    assert found.is_certain
    small = replace(LARGE, num_parameters=30 * 10**9, active_parameters=3 * 10**9)
    dense = replace(LARGE, active_parameters=LARGE.num_parameters)
    for model in (small, dense):
        cost = Cost({}, training=(training(ZERO3, model=model),))
        assert not list(misfits(TrainRun(), cost, room(0)))


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"data_parallel": 2}, "data_parallel: if a policy is trained"),
        ({"tensor_parallel": 3}, "3 of the 4 processes that train would have an engine together"),
    ],
)
def test_a_generator_inside_each_rank_has_its_one_gpu(
    generator: dict[str, object], message: str
) -> None:
    engine = {"backend": "deepspeed", "num_processes": 4}
    params = ModelParams()
    settings = {"engine": engine, "generator": {"backend": "vllm", **generator}}
    run = GrpoRun.model_validate(settings)
    assert message in str(run.incompatible_with(params))
    for more in ({"cluster": "ray", "tensor_parallel": 3}, {"tensor_parallel": 2}):
        settings["generator"] = {"backend": "vllm", **more}
        assert GrpoRun.model_validate(settings).incompatible_with(params) is None
    alone = GrpoRun.model_validate({"generator": {"backend": "vllm", "tensor_parallel": 2}})
    assert alone.incompatible_with(params) is None


def test_a_misfit_is_reported_where_it_was_written() -> None:
    node = load_manifest(R1, profile="node8").stages["zero"]
    found = mistake(node, Misfit("run.engine.num_processes", "too many"))
    line = R1.read_text().splitlines()[found.line - 1]
    assert line[found.column - 1 :].startswith("8}")
    assert str(found).endswith(f"r1.yaml:{found.line}:{found.column}: stages.zero: too many")


def test_run_refuses_what_cannot_start_before_it_begins(
    r1pipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.machine.read_gpus", lambda: ())
    store = tmp_path / "store"
    arguments = (str(R1), "--profile", "smoke", "--store", str(store))
    setting = ("--set", "stages.base.run.device=cuda")
    monkeypatch.setattr("r1pipe.machine.DEVICES", tmp_path)
    code, _, err = r1pipe("run", *arguments, *setting, "--to", "base")
    assert code == 2
    assert "--set stages.base.run.device=cuda: stages.base: run.device: cuda needs a GPU" in err
    assert not list(store.glob("actions/**/*.json")), "nothing was built"
    document = json.loads(r1pipe("plan", *arguments, *setting, "--json")[1])
    (named,) = (n for text, n in document["costs"]["warnings"].items() if "needs a GPU" in text)
    assert named == ["base"]


def test_the_paper_says_what_is_planned_only_and_samples_on_a_cluster(
    r1pipe: Run, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    out = r1pipe("plan", str(R1), "--profile", "paper", "--json", "--store", store)[1]
    warnings: dict[str, list[str]] = json.loads(out)["costs"]["warnings"]
    (only,) = (names for text, names in warnings.items() if text.startswith("plan only"))
    trains = ["zero", "cold-start-sft", "reasoning-rl", "second-sft", "helpful-rm", "safety-rm"]
    assert only == [*trains, "alignment-rl"]
    unfit = {
        name for text, names in warnings.items() if "of weights do not" in text for name in names
    }
    assert unfit == {"zero", "reasoning-rl", "alignment-rl"}  # what samples apart fits


def test_a_rank_takes_its_own_gpu_or_the_only_one_it_sees() -> None:
    assert [gpu_of(rank, 8) for rank in (0, 3, 7)] == [0, 3, 7]
    assert gpu_of(3, 1) == 0  # a Slurm task with one visible GPU
    with pytest.raises(StageError, match=r"rank 3 of this node has no GPU: 2 are visible"):
        gpu_of(3, 2)


@pytest.mark.parametrize(
    ("profile", "held"),
    [
        # 18 or 16 bytes a parameter over 8 ranks or 1, the reference's 2; and 0.45 of 80 GB while
        # sampling
        ("node8", 7e9 * (18 + 2) / 8 + 36e9),
        ("gpu", 1.5e9 * (16 + 2) + 36e9),
    ],
)
def test_a_sleeping_engine_is_not_added_to_what_training_needs(
    profile: str, held: float, r1pipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.machine.read_gpus", lambda: ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = str(tmp_path / "store")
    out = r1pipe("plan", str(R1), "--profile", profile, "--json", "--store", store)[1]
    low, high = json.loads(out)["costs"]["stages"]["zero"]["peak_bytes"]
    assert low == pytest.approx(held + 500 * 2**20)
    assert high < 80e9


def test_on_a_cluster_the_other_stages_of_the_paper_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.machine.read_gpus", lambda: (H100,) * 8)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "64")
    manifest = load_manifest(R1, profile="paper")
    estimator = make_estimator(manifest, Store(tmp_path), {})
    found = {
        name: [each.text for each in estimator.misfits(name) if each.is_certain]
        for name in manifest.stages
    }
    refused = {name: texts for name, texts in found.items() if texts}
    trains = {"zero", "cold-start-sft", "reasoning-rl", "second-sft", "alignment-rl"}
    assert refused.keys() == trains | {"helpful-rm", "safety-rm"}
    for texts in refused.values():
        assert texts[0].startswith("plan only: needs expert parallelism")
    assert {
        "cold-start-data",
        "rejection-sample",
        "distil",
        "student-rl",
        "eval-r1",
    } <= found.keys()
