"""From YAML to checked stages: resolution, precedence, places, and every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_project import MANIFEST, make_project, mistakes_of, write_manifest

from r1pipe.errors import ManifestError
from r1pipe.manifest import Ref, load_manifest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


def small(project: Path) -> Path:
    return project / "manifests" / "small.yaml"


def test_stages_come_in_topological_order_with_their_inputs(project: Path) -> None:
    manifest = load_manifest(small(project))
    assert list(manifest.stages) == ["numbers", "joined", "scores"]
    rows = Ref("numbers", "rows", is_source=False)
    assert manifest.stages["joined"].inputs == {
        "rows": rows,
        "extra": {"again": rows, "prompts": Ref("prompts", None, is_source=True)},
    }
    assert manifest.stages["scores"].inputs == {"rows": Ref("joined", "rows", is_source=False)}
    assert manifest.profile == "laptop"


def test_ties_in_the_order_keep_the_order_of_the_file(project: Path) -> None:
    stages = "\n".join(f"  {n}: {{kind: numbers, params: {{count: 1}}}}" for n in "cab")
    path = write_manifest(project, f"r1pipe: 1\nname: x\nstages:\n{stages}\n")
    assert list(load_manifest(path).stages) == ["c", "a", "b"]


def test_a_profile_beats_the_manifest_and_an_override_beats_the_profile(project: Path) -> None:
    params: Any = load_manifest(small(project)).stages["numbers"].params
    assert (params.count, params.rate, params.seed) == (5, 0.5, 3)
    gpu: Any = load_manifest(small(project), profile="gpu").stages["numbers"].params
    assert (gpu.count, gpu.rate) == (5, 1e-6)
    overridden = load_manifest(
        small(project), profile="gpu", overrides=["stages.numbers.params.count=8", "params.seed=9"]
    )
    params = overridden.stages["numbers"].params
    assert (params.count, params.rate, params.seed) == (8, 1e-6, 9)


def test_each_value_knows_where_it_came_from(project: Path) -> None:
    manifest = load_manifest(
        small(project), profile="gpu", overrides=["stages.joined.params.keep={verdict: wrong}"]
    )
    numbers, joined = manifest.stages["numbers"].origins, manifest.stages["joined"].origins
    path = small(project)
    assert str(numbers["params.count"]) == f"{path}:18:47 (profile laptop)"
    assert str(numbers["params.rate"]) == f"{path}:19:60 (profile gpu)"
    assert str(numbers["params.seed"]) == f"{path}:4:16"
    assert str(numbers["run.workers"]) == f"{path}:15:20"
    assert str(joined["inputs.extra.prompts"]) == f"{path}:10:72"
    text = "--set stages.joined.params.keep={verdict: wrong}"
    assert str(joined["params.keep.verdict"]) == text
    assert str(joined["params.keep.max_chars"]) == f"{path}:11:32"
    assert "params.name" not in joined


def test_key_params_leave_out_defaults_also_inside(project: Path) -> None:
    stages = load_manifest(small(project)).stages
    assert stages["joined"].key_params() == {"keep": {"max_chars": 7}, "levels": [3, 4]}
    assert stages["numbers"].key_params() == {"count": 5, "seed": 3}
    written_out = load_manifest(
        small(project),
        overrides=[
            "stages.joined.params.keep={verdict: correct, max_chars: 10}",
            "stages.joined.params.levels=[1, 2]",
            "stages.numbers.params.rate=0.5",
            "stages.numbers.params.count=0",
        ],
    ).stages
    assert written_out["joined"].key_params() == {}
    assert written_out["numbers"].key_params() == {"count": 0, "seed": 3}


def test_all_mistakes_are_reported_at_once_in_order_of_place(project: Path) -> None:
    path = write_manifest(
        project,
        """
        r1pipe: 1
        name: bad
        profile: lptop
        parms: {seed: 3}
        sources:
          prompts: {pth: x, as: dataset}
        stages:
          numbers:
            kind: numbers
            params: {count: "5", workers: 2, cuont: 1}
            run: {workers: no, seed: 3}
            rate: 0.5
          joined:
            kind: jion
          three:
            kind: join
            inputs: {rows: numbers, extra: {a: numbers.row, b: prompts, c: nmbers.rows}, zzz: x}
            params: {keep: {verdict: corect, max_char: 1}, levels: 3, weights: {a: x},
                     is_strict: no}
          four: {kind: join, inputs: {rows: five}}
          five: {kind: join, inputs: {rows: four}, params: {levels: $params.sed}}
          six: {kind: join}
          seven: {kind: scoreboard, inputs: {rows: numbers.report}}
        profiles:
          laptop: {stages: {numbrs: {params: {}}, numbers: {params: {workers: 1}}}}
        """,
    )
    text = [
        "small.yaml:3:10: unknown profile 'lptop'; did you mean 'laptop'?",
        "small.yaml:4:1: unknown key 'parms' in the manifest; did you mean 'params'?",
        "small.yaml:6:13: unknown key 'pth' in sources.prompts; did you mean 'path'?",
        "small.yaml:10:21: stages.numbers.params.count should be a whole number, not '5'; write 5",
        "small.yaml:10:26: unknown key 'workers' in stages.numbers.params; it belongs under 'run'",
        "small.yaml:10:38: unknown key 'cuont' in stages.numbers.params; did you mean 'count'?",
        "small.yaml:11:20: stages.numbers.run.workers should be a whole number, not 'no'",
        "small.yaml:11:24: unknown key 'seed' in stages.numbers.run; it belongs under 'params'",
        "small.yaml:12:5: unknown key 'rate' in stages.numbers; it belongs under 'params'",
        "small.yaml:14:11: unknown kind 'jion'; did you mean 'join'?",
        "small.yaml:17:20: 'numbers' has several outputs; choose one: 'numbers.rows',"
        " 'numbers.report'",
        "small.yaml:17:40: 'numbers' has no output 'row'; did you mean 'rows'?",
        "small.yaml:17:68: stages.three.inputs.extra.c: no stage or source 'nmbers'; did you mean"
        " 'numbers'?",
        "small.yaml:17:82: unknown input 'zzz' in stages.three; inputs: extra, rows",
        "small.yaml:18:30: stages.three.params.keep.verdict should be 'correct' or 'wrong', not"
        " 'corect'",
        "small.yaml:18:38: unknown key 'max_char' in stages.three.params.keep; did you mean"
        " 'max_chars'?",
        "small.yaml:18:60: stages.three.params.levels should be a list, not 3",
        "small.yaml:18:76: stages.three.params.weights.a should be a number, not 'x'",
        "small.yaml:19:25: stages.three.params.is_strict should be true or false, not 'no'; in"
        " YAML 1.2 that is text",
        "small.yaml:20:37: each stage of this cycle needs the next one: four -> five -> four",
        "small.yaml:21:61: unknown parameter '$params.sed'; there are no params",
        "small.yaml:22:3: stages.six needs the input 'rows' (rows); add it under 'inputs'",
        "small.yaml:23:44: 'numbers.report' is of type report, but stages.seven.inputs.rows takes"
        " rows",
        "small.yaml:25:21: unknown stage 'numbrs'; did you mean 'numbers'?",
        "small.yaml:25:62: unknown key 'workers' in stages.numbers.params; it belongs under 'run'",
    ]
    # The malformed source is not reported a second time where stages.three refers to it.
    assert mistakes_of(path) == text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.numbrs.params.count=1", "unknown stage 'numbrs'; did you mean 'numbers'?"),
        ("params.sed=1", "unknown parameter 'sed'; did you mean 'seed'?"),
        ("sources.prompt.path=x", "unknown source 'prompt'; did you mean 'prompts'?"),
        (
            "stages.numbers.params.cout=1",
            "unknown key 'cout' in stages.numbers.params; did you mean 'count'?",
        ),
        (
            "stages.numbers.parms.count=1",
            "unknown key 'parms' in stages.numbers; did you mean 'params'?",
        ),
        (
            "stages.numbers.params.count=x",
            "stages.numbers.params.count should be a whole number, not 'x'",
        ),
        ("stages.numbers.params.count", "write it as stages.STAGE.params.NAME=VALUE"),
        ("name=x", "write it as stages.STAGE.params.NAME=VALUE"),
        ("stages.numbers.params.count=[1", "not YAML"),
        ("stages.nothing=null", "unknown stage 'nothing'"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_written(
    project: Path, override: str, message: str
) -> None:
    found = mistakes_of(small(project), overrides=[override])
    assert found[-1].startswith(f"--set {override}: {message}")


def test_an_override_is_read_as_yaml_1_2(project: Path) -> None:
    stages = load_manifest(
        small(project),
        overrides=[
            "stages.numbers.params.rate=2e-5",
            "stages.joined.params.name=no",
            "stages.joined.params.weights={a: 1, b: 2.5}",
            "stages.joined.inputs.extra.prompts=null",
        ],
    ).stages
    numbers: Any = stages["numbers"].params
    joined: Any = stages["joined"].params
    assert numbers.rate == 2e-5
    assert joined.name == "no"
    assert joined.weights == {"a": 1.0, "b": 2.5}
    extra: Any = stages["joined"].inputs["extra"]
    assert list(extra) == ["again"]


def test_what_a_profile_hides_and_profiles_not_chosen_are_checked_too(project: Path) -> None:
    text = MANIFEST.replace("{count: 10,", "{count: ten,")
    text = text.replace("rate: 1e-6", "rate: slow, seeds: 1")
    text = text.replace("{extends: laptop,", "{extends: laptop, stage: {},")
    assert mistakes_of(write_manifest(project, text)) == [
        "small.yaml:14:21: stages.numbers.params.count should be a whole number, not 'ten'",
        "small.yaml:19:26: unknown key 'stage' in profiles.gpu; did you mean 'stages'?",
        "small.yaml:19:71: stages.numbers.params.rate should be a number, not 'slow'",
        "small.yaml:19:77: unknown key 'seeds' in stages.numbers.params; did you mean 'seed'?",
    ]


def test_a_profile_may_give_what_the_manifest_leaves_open(project: Path) -> None:
    text = MANIFEST.replace("{count: 10, seed", "{seed")
    params: Any = load_manifest(write_manifest(project, text)).stages["numbers"].params
    assert params.count == 5
    text = text.replace("profile: laptop\n", "")
    assert mistakes_of(write_manifest(project, text)) == [
        "small.yaml:13:5: stages.numbers.params.count is missing and has no default"
    ]


def test_an_unknown_profile_lists_the_profiles(project: Path) -> None:
    found = mistakes_of(small(project), profile="paper")
    assert found == ["--profile paper: unknown profile 'paper'; profiles: gpu, laptop"]


def test_a_format_of_the_future_is_refused_at_once(project: Path) -> None:
    path = write_manifest(project, "r1pipe: 2\nname: x\nstagez: {}\n")
    assert mistakes_of(path) == [
        "small.yaml:1:9: manifest format 2 needs an r1pipe that reads it; this one reads up to 1:"
        " upgrade r1pipe"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nstages: {}\n", "small.yaml:1:1: the format is missing; begin with 'r1pipe: 1'"),
        ("r1pipe: one\nname: x\n", "small.yaml:1:9: the format must be the number 1: 'r1pipe: 1'"),
        ("- a\n", "small.yaml:1:1: a manifest is a mapping that begins 'r1pipe: 1'"),
        ("r1pipe: 1\nname: x\n", "small.yaml:1:1: there are no stages; add some under 'stages:'"),
        ("r1pipe: 1\nname: x\nstages: [1]\n", "small.yaml:3:9: stages should be a mapping"),
    ],
)
def test_a_document_of_another_shape_is_refused(project: Path, text: str, message: str) -> None:
    assert any(line.startswith(message) for line in mistakes_of(write_manifest(project, text)))


def test_a_byte_order_mark_is_no_part_of_the_first_key(project: Path) -> None:
    path = small(project)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_manifest(path).name == "small"


def test_a_missing_manifest_is_named(project: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.yaml: no such manifest"):
        load_manifest(project / "nowhere.yaml")


def test_a_cycle_of_three_names_its_path_at_the_edge(project: Path) -> None:
    path = write_manifest(
        project,
        """
        r1pipe: 1
        name: x
        stages:
          free: {kind: numbers, params: {count: 1}}
          a: {kind: join, inputs: {rows: b}}
          b: {kind: join, inputs: {rows: free.rows, extra: {x: c.rows}}}
          c: {kind: join, inputs: {rows: a}}
        """,
    )
    assert mistakes_of(path) == [
        "small.yaml:5:34: each stage of this cycle needs the next one: a -> b -> c -> a"
    ]


def test_a_stage_and_a_source_cannot_share_a_name(project: Path) -> None:
    text = MANIFEST.replace("  scores:", "  prompts:")
    found = mistakes_of(write_manifest(project, text))
    assert found == ["small.yaml:16:3: 'prompts' is a source too; rename one of the two"]


def test_many_inputs_take_a_mapping_and_others_do_not(project: Path) -> None:
    text = MANIFEST.replace("extra: {again: numbers.rows, prompts: prompts}", "extra: prompts")
    text = text.replace("{rows: joined}", "{rows: {a: joined}}")
    assert mistakes_of(write_manifest(project, text)) == [
        "small.yaml:10:41: stages.joined.inputs.extra takes many: write it as"
        " {label: reference, ...}",
        "small.yaml:16:45: stages.scores.inputs.rows takes one reference, not a mapping",
    ]


def test_a_local_source_lies_relative_to_the_file_that_names_it(project: Path) -> None:
    source = load_manifest(small(project)).sources["prompts"]
    assert source.path is not None
    assert source.path.resolve() == (project / "data" / "prompts.jsonl").resolve()
    other = load_manifest(small(project), overrides=["sources.prompts.path=here.jsonl"])
    assert other.sources["prompts"].path == Path("here.jsonl")
