"""What a manifest says of every stage of a kind, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Run
from fake_project import make_project, mistakes_of, write_manifest
from short_project import SHORT, above, counts, load, reads, value

from r1pipe.manifest import load_manifest
from r1pipe.manifest.recipe import recipe_root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


def test_a_stages_own_words_beat_the_defaults_of_its_kind(project: Path) -> None:
    manifest = load(project)
    assert counts(manifest) == {"numbers": 10, "few": 2}
    assert value(manifest, "few", "rate") == 0.1


def test_the_star_reaches_the_kinds_that_have_the_field_and_no_others(project: Path) -> None:
    manifest = load(project)
    assert value(manifest, "numbers", "seed") == 3
    assert not hasattr(manifest.stages["joined"].params, "seed")
    assert manifest.stages["joined"].run.workers == 2  # type: ignore[attr-defined]


def test_a_kinds_own_defaults_beat_the_star(project: Path) -> None:
    text = SHORT.replace("rate: 0.1}", "rate: 0.1, seed: 8}")
    assert value(load(project, text), "numbers", "seed") == 8


def test_a_profiles_defaults_beat_a_stage_and_its_stages_beat_them(project: Path) -> None:
    assert counts(load(project, profile="tiny")) == {"numbers": 4, "few": 4}
    assert value(load(project, profile="tiny"), "few", "rate") == 0.7
    text = SHORT.replace("{params: {rate: 0.7}}", "{params: {rate: 0.7, count: 6}}")
    assert counts(load(project, text, profile="tiny")) == {"numbers": 4, "few": 6}


def test_profiles_that_extend_others_lay_their_defaults_over_them(project: Path) -> None:
    assert counts(load(project, profile="tiniest")) == {"numbers": 1, "few": 1}
    text = SHORT.replace("{params: {rate: 0.7}}", "{params: {count: 6}}")
    assert counts(load(project, text, profile="tiniest")) == {"numbers": 1, "few": 1}


def test_a_manifest_above_lays_its_defaults_over_the_stages_below(project: Path) -> None:
    text = "defaults: {numbers: {params: {count: 20}}}\nstages: {few: {params: {count: 21}}}\n"
    assert counts(above(project, text)) == {"numbers": 20, "few": 21}
    assert counts(above(project, text, profile="tiny")) == {"numbers": 4, "few": 4}


def test_a_new_stage_has_the_defaults_of_all_layers_below(project: Path) -> None:
    text = "stages: {new: {kind: numbers, params: {rate: 0.9}}}\n"
    manifest = above(project, text)
    assert manifest.stages["new"].key_params() == {"count": 10, "rate": 0.9, "seed": 3}
    assert value(above(project, text, profile="tiny"), "new", "count") == 4


def test_a_stage_of_another_kind_has_the_defaults_of_that_kind(project: Path) -> None:
    text = SHORT + "  swap: {stages: {joined: {kind: numbers, params: {rate: 0.9}}}}\n"
    swapped = load(project, text, profile="swap").stages["joined"]
    assert swapped.key_params() == {"count": 10, "rate": 0.9, "seed": 3}
    assert swapped.inputs == {}


def test_set_is_a_layer_whose_defaults_beat_all_below_and_not_its_own_stages(
    project: Path,
) -> None:
    own, kind = "stages.few.params.count=7", "defaults.numbers.params.count=9"
    assert counts(load(project, profile="tiny", overrides=[kind])) == {"numbers": 9, "few": 9}
    for overrides in ([own, kind], [kind, own]):
        assert counts(load(project, overrides=overrides)) == {"numbers": 9, "few": 7}
    assert value(load(project, overrides=["defaults.*.params.seed=5"]), "few", "seed") == 5


def test_null_in_defaults_takes_an_input_from_the_stages_that_have_it(project: Path) -> None:
    text = SHORT + "  bare: {defaults: {join: {inputs: {extra: null}}}}\n"
    manifest = load(project, text, profile="bare")
    assert reads(manifest, "joined") == {"rows": "numbers.rows"}
    assert reads(manifest, "more-b") == {"rows": "few.rows"}


def test_an_input_from_defaults_may_be_taken_away(project: Path) -> None:
    text = SHORT.replace(
        "  numbers: {params", "  join: {inputs: {extra: {x: few.rows}}}\n  numbers: {params", 1
    )
    text = text.replace("b: {inputs: {rows: few.rows}}", "b: {inputs: {extra: null}}")
    manifest = load(project, text)
    assert reads(manifest, "more-a") == {"rows": "numbers.rows", "extra": {"x": "few.rows"}}
    assert reads(manifest, "more-b") == {"rows": "numbers.rows"}


def test_a_value_from_defaults_knows_its_place_and_its_path(project: Path) -> None:
    path = write_manifest(project, SHORT)
    origins = load_manifest(path, profile="tiny").stages["few"].origins
    assert str(origins["params.seed"]) == f"{path}:3:16"
    assert str(origins["run.workers"]) == f"{path}:5:54 (defaults.*.run.workers)"
    said = f"{path}:20:42 (profile tiny, defaults.numbers.params.count)"
    assert str(origins["params.count"]) == said
    assert str(origins["params.rate"]) == f"{path}:21:35 (profile tiny)"
    more = load_manifest(path).stages["more-a"].origins
    assert str(more["params.levels"]) == f"{path}:13:22 (stages.more.params.levels)"
    assert str(more["params.name"]) == f"{path}:15:26 (stages.more.each.a.params.name)"


def test_wrong_defaults_are_reported_once_at_their_place(project: Path) -> None:
    found = mistakes_of(
        write_manifest(
            project,
            """
            r1pipe: 1
            name: bad
            defaults:
              "*": {params: {sead: 1}, run: {workers: many}}
              nmbers: {params: {count: 1}}
              numbers: {params: {cuont: 1, rate: fast}, ruin: {}, workers: 3}
              join: {inputs: {row: a, extra: {x: c.rows}}}
              scoreboard: [1]
            stages:
              a: {kind: numbers, params: {count: 1}}
              b: {kind: numbers, params: {count: 1}}
              j: {kind: join, inputs: {rows: a.rows}}
              k: {kind: join, inputs: {rows: a.rows}}
            profiles:
              p: {defaults: {numbres: {}, numbers: {params: {rates: 1.0}}}}
            """,
        )
    )
    assert found == [
        "small.yaml:4:18: no kind has 'sead' in its params, as defaults.\"*\" says; did you mean"
        " 'seed'?",
        "small.yaml:4:43: defaults.*.run.workers should be a whole number, not 'many'",
        "small.yaml:5:3: unknown kind 'nmbers' under 'defaults'; did you mean 'numbers'?",
        "small.yaml:6:22: unknown key 'cuont' in defaults.numbers.params; did you mean 'count'?",
        "small.yaml:6:38: defaults.numbers.params.rate should be a number, not 'fast'",
        "small.yaml:6:45: unknown key 'ruin' in defaults.numbers; did you mean 'run'?",
        "small.yaml:6:55: unknown key 'workers' in defaults.numbers; it belongs under 'run'",
        "small.yaml:7:19: unknown input 'row' in defaults.join; did you mean 'rows'?",
        "small.yaml:7:38: defaults.join.inputs.extra.x: no stage or source 'c'; names: a, b, j, k",
        "small.yaml:8:15: defaults.scoreboard should be a mapping, not [1]",
        "small.yaml:15:18: unknown kind 'numbres' under 'defaults'; did you mean 'numbers'?",
        "small.yaml:15:50: unknown key 'rates' in defaults.numbers.params; did you mean 'rate'?",
    ]


def test_defaults_that_no_stage_shows_are_checked_too(project: Path) -> None:
    text = SHORT.replace('  "*"', "  scoreboard: {params: {x: 1}}\n" + '  "*"')
    text = text.replace("{numbers: {params: {count: 1}}}", "{numbers: {params: {count: [1]}}}")
    assert mistakes_of(write_manifest(project, text)) == [
        "small.yaml:5:25: unknown key 'x' in defaults.scoreboard.params; there are no keys",
        "small.yaml:25:42: defaults.numbers.params.count should be a whole number, not [1]",
    ]


def test_what_the_star_says_in_vain_or_of_something_else_is_noted_with_its_place(
    tmp_path: Path, r1pipe: Run
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    path = tmp_path / "m.yaml"
    path.write_text(
        "r1pipe: 1\nname: m\nsources: {own: {path: rows.jsonl, as: dataset}}\n"
        'defaults:\n  "*":\n    params:\n      format: {think: none, answer: boxed}\n'
        "      num_epochs: 2\n    run: {device: cuda}\n"
        "stages: {rows: {kind: import-rows, inputs: {source: own}}}\n"
    )
    no_effect = "has no effect: no stage here has it"
    assert load_manifest(path).notes == (
        f'{path}:8:7: defaults."*".params.num_epochs {no_effect}',
        f'{path}:9:11: defaults."*".run.device {no_effect}',
        f'{path}:7:15: defaults."*".params.format is the format of rows that do not say theirs, in'
        " stages of kind import-rows (rows); give them their own params.format if need be",
    )
    store = ("--store", str(tmp_path / "store"))
    notes = [line for line in r1pipe("plan", str(path), *store)[1].splitlines() if "note" in line]
    assert notes == [f"note: {text}" for text in load_manifest(path).notes]
    assert set(notes) < set(r1pipe("run", str(path), *store)[2].splitlines())
    assert json.loads(r1pipe("plan", str(path), "--json", *store)[1])["notes"]
    own = load_manifest(path, overrides=["stages.rows.params.format=chat"])
    assert len(own.notes) == 2


def test_no_manifest_that_comes_along_has_a_note() -> None:
    root = recipe_root()
    assert root is not None
    for path in sorted((root / "manifests").rglob("*.yaml")):
        assert load_manifest(path).notes == (), path


def test_a_field_of_no_kind_is_answered_with_some_of_them_and_their_number(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        'r1pipe: 1\nname: m\ndefaults: {"*": {params: {zzz: 1}}}\nstages: {a: {kind: problems}}\n'
    )
    (text,) = [line for line in mistakes_of(path) if "zzz" in line]
    assert "m.yaml:3:27: no kind has 'zzz' in its params" in text
    assert text.count(", ") < 45
    assert text.endswith(" more")
