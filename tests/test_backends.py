"""Backends: settings of their own, from a table that is open; mistakes in their place."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from tiny import save_policy

from r1pipe.engine_settings import ENGINES, TrainRun
from r1pipe.errors import ManifestError
from r1pipe.generate.backends import open_generator
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.generator_settings import GENERATORS, SampleRun
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.manifest.json_schema import manifest_schema
from r1pipe.manifest.kinds import load_kinds

MANIFEST = """\
r1pipe: 1
name: one
sources:
  model: {path: model, as: model}
  problems: {path: problems, as: problems}
stages:
  eval:
    kind: evaluate
    inputs: {model: model, problems: {test: problems}}
    params: {seed: 1, format: chat, num_samples: 1, max_tokens: 8}
    run:
      generator: GENERATOR
"""
TOY = '''\
"""A backend in one file: it answers every prompt with its own tokens, backwards."""

from typing import Literal

from r1pipe.generate.protocol import GeneratorBackend, Sampled
from r1pipe.records import FinishReason


class ToySettings(GeneratorBackend):
    backend: Literal["toy"]
    num_turns: int = 1

    def open_sealed(self, folder, tokenizer, run, precision):
        return ToyGenerator(self.num_turns)

    def open_beside(self, model, tokenizer, run, num_ranks, precision):
        return ToyGenerator(self.num_turns)


class ToyGenerator:
    def __init__(self, num_turns):
        self.num_turns = num_turns

    def generate(self, requests, sampling):
        for request in requests:
            ids = list(request.prompt_ids)[:: -1 if self.num_turns % 2 else 1]
            yield Sampled(request.index, ids, [0.0] * len(ids), FinishReason.STOP)

    def load_weights(self, tensors):
        pass

    def sleep(self):
        pass

    def close(self):
        pass
'''


def manifest(folder: Path, generator: str, overrides: tuple[str, ...] = ()) -> Manifest:
    path = folder / "manifests" / "one.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(MANIFEST.replace("GENERATOR", generator))
    return load_manifest(path, overrides=[f"stages.eval.run.{text}" for text in overrides])


def generator_of(manifest: Manifest) -> dict[str, object]:
    run = manifest.stages["eval"].run
    assert isinstance(run, SampleRun)
    return run.generator.model_dump(exclude_defaults=True)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a backend: one file and one line."""
    (tmp_path / "toy_backend.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(GENERATORS, "toy", "toy_backend.ToySettings")


# ---- one file and one line -----------------------------------------------------------------------


@pytest.mark.usefixtures("toy")
def test_a_new_backend_is_chosen_in_a_manifest_and_samples(tmp_path: Path) -> None:
    run = manifest(tmp_path, "{backend: toy, num_turns: 3}").stages["eval"].run
    assert isinstance(run, SampleRun)
    with open_generator(save_policy(tmp_path / "model"), run) as (generator, _):
        (sampled,) = generator.generate([Request((5, 6, 7), seed=1, index=4)], SamplingParams())
    assert (sampled.index, sampled.token_ids) == (4, [7, 6, 5])


@pytest.mark.usefixtures("toy")
def test_a_new_backend_is_in_messages_and_in_the_schema(tmp_path: Path) -> None:
    message = r"one.yaml:12:19: .*num_turns is an option of backend toy; this generator is trans"
    with pytest.raises(ManifestError, match=message):
        manifest(tmp_path, "{num_turns: 3}")
    validator = jsonschema.Draft202012Validator(manifest_schema(load_kinds(tmp_path / "x" / "y")))
    document = {"r1pipe": 1, "name": "x", "stages": {"eval": {"kind": "evaluate"}}}
    stage = document["stages"]["eval"]  # type: ignore[index]
    stage["run"] = {"generator": {"backend": "toy", "num_turns": 3}}
    assert validator.is_valid(document)
    stage["run"] = {"generator": {"backend": "vllm", "num_turns": 3}}
    assert not validator.is_valid(document)


@pytest.mark.parametrize(
    ("run", "role", "table"), [(SampleRun, "generator", GENERATORS), (TrainRun, "engine", ENGINES)]
)
def test_every_backend_is_read_back_from_what_its_settings_write(
    run: type[SampleRun | TrainRun], role: str, table: dict[str, str]
) -> None:
    for backend in table:
        more = {"url": "http://host/v1"} if backend == "openai" else {}
        made = run.model_validate({role: {"backend": backend, **more}})
        assert run.model_validate_json(made.model_dump_json()) == made
        assert json.loads(made.model_dump_json())[role]["backend"] == backend
    assert getattr(run(), role).backend == next(iter(table))


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generator", "place", "message"),
    [
        (
            "{backend: transformers, kv_cache_mb: 3}",
            "12:42",
            "stages.eval.run.generator: kv_cache_mb is an option of backend vllm; this generator is"
            " transformers. Leave it out, or set backend: vllm",
        ),
        (
            "{tensor_parallel: 2}",
            "12:19",
            "stages.eval.run.generator: tensor_parallel is an option of backend vllm; this"
            " generator is transformers. Leave it out, or set backend: vllm",
        ),
        (
            "{backend: vlm}",
            "12:28",
            "unknown backend 'vlm' in stages.eval.run.generator; did you mean 'vllm'?",
        ),
        (
            "{backend: ray}",
            "12:28",
            "unknown backend 'ray' in stages.eval.run.generator; backends: openai, transformers,"
            " vllm",
        ),
        (
            "{backend: vllm, kv_cach_mb: 3}",
            "12:34",
            "unknown key 'kv_cach_mb' in stages.eval.run.generator; did you mean 'kv_cache_mb'?",
        ),
        (
            "{backend: transformers, kv_cach_mb: 3}",
            "12:42",
            "unknown key 'kv_cach_mb' in stages.eval.run.generator; keys: address, backend,"
            " cluster, data_parallel, max_restarts, start_timeout_s, weight_transfer",
        ),
        (
            "{backend: vllm, max_num_seqs: 0}",
            "12:48",
            "stages.eval.run.generator.max_num_seqs should be greater than 0, not 0",
        ),
        (
            "{backend: openai}",
            "12:7",
            "stages.eval.run.generator.url is missing and has no default",
        ),
        (
            "{backend: transformers, data_parallel: 2}",
            "12:18",
            "stages.eval.run.generator: data_parallel needs a cluster; on one machine raise"
            " run.workers, or add `cluster: ray`",
        ),
        (
            "{backend: vllm, address: auto}",
            "12:18",
            "stages.eval.run.generator: address needs a cluster; add `cluster: ray`",
        ),
        ("vllm", "12:18", "stages.eval.run.generator should be a mapping, not 'vllm'"),
        ("[vllm]", "12:18", 'stages.eval.run.generator should be a mapping, not ["vllm"]'),
    ],
)
def test_a_mistake_is_told_at_its_place(
    tmp_path: Path, generator: str, place: str, message: str
) -> None:
    with pytest.raises(ManifestError) as error:
        manifest(tmp_path, generator)
    path = tmp_path / "manifests" / "one.yaml"
    assert [str(each) for each in error.value.mistakes] == [f"{path}:{place}: {message}"]


def test_all_mistakes_of_a_generator_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as error:
        manifest(tmp_path, "{backend: openai, url: 3, sleep: true, max_retrys: 1}")
    assert len(error.value.mistakes) == 3


def test_vllm_in_process_takes_no_gpu_but_the_first(tmp_path: Path) -> None:
    for device in ("cuda", "cuda:0"):
        manifest(tmp_path, "{backend: vllm}", (f"device={device}",))
    manifest(tmp_path, "{backend: vllm, cluster: ray}", ("device=cuda:1",))
    manifest(tmp_path, "{backend: transformers}", ("device=cuda:1",))
    message = (
        r"stages.eval.run: device: cuda:1: vLLM takes the first GPU that it sees; write"
        r" `device: cuda` and run with CUDA_VISIBLE_DEVICES=1"
    )
    with pytest.raises(ManifestError, match=message):
        manifest(tmp_path, "{backend: vllm}", ("device=cuda:1",))


# ---- layers --------------------------------------------------------------------------------------


def test_a_layer_with_another_backend_replaces_the_settings_below_it(tmp_path: Path) -> None:
    below = "{backend: vllm, kv_cache_mb: 3, max_num_seqs: 5}"
    same = manifest(tmp_path, below, ("generator={backend: vllm, max_num_seqs: 7}",))
    assert generator_of(same) == {"backend": "vllm", "kv_cache_mb": 3, "max_num_seqs": 7}
    part = manifest(tmp_path, below, ("generator.max_num_seqs=7",))
    assert generator_of(part) == {"backend": "vllm", "kv_cache_mb": 3, "max_num_seqs": 7}
    other = manifest(tmp_path, below, ("generator.backend=transformers",))
    assert generator_of(other) == {}
    texts = ("generator.backend=openai", "generator.url=http://host/v1")
    server = generator_of(manifest(tmp_path, below, texts))
    assert server == {"backend": "openai", "url": "http://host/v1"}


def test_options_may_lie_below_the_layer_that_chooses_their_backend(tmp_path: Path) -> None:
    chosen = manifest(tmp_path, "{kv_cache_mb: 3}", ("generator.backend=vllm",))
    assert generator_of(chosen) == {"backend": "vllm", "kv_cache_mb": 3}
