"""Stages made of one: `each`, stars, and what `targets` leave of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_project import make_project, mistakes_of, write_manifest
from short_project import SHORT, above, load, mistakes_above, reads, value
from tiny import MANIFEST as R1

from r1pipe.manifest import load_manifest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


def test_each_makes_a_stage_of_every_entry_laid_over_the_rest(project: Path) -> None:
    manifest = load(project)
    assert list(manifest.stages) == ["numbers", "few", "more-a", "more-b", "joined"]
    assert [value(manifest, f"more-{label}", "levels") for label in "ab"] == [(5,), (5,)]
    assert [value(manifest, f"more-{label}", "name") for label in "ab"] == ["first", None]
    assert [reads(manifest, f"more-{label}")["rows"] for label in "ab"] == [
        "numbers.rows",
        "few.rows",
    ]


def test_a_layer_above_may_take_an_entry_away_add_one_and_change_one(project: Path) -> None:
    entries = "{a: null, b: {params: {name: second}}, c: {params: {levels: [6]}}}"
    manifest = above(project, f"stages: {{more: {{each: {entries}}}}}\n")
    assert list(manifest.stages) == ["numbers", "few", "more-b", "more-c", "joined"]
    assert value(manifest, "more-b", "name") == "second"
    assert (value(manifest, "more-c", "levels"), reads(manifest, "more-c")["rows"]) == (
        (6,),
        "numbers.rows",
    )
    assert reads(manifest, "joined")["extra"] == {"b": "more-b.rows", "c": "more-c.rows"}
    text = SHORT + f"  other: {{stages: {{more: {{each: {entries}}}}}}}\n"
    assert list(load(project, text, profile="other").stages) == list(manifest.stages)


def test_what_a_layer_says_of_the_whole_reaches_every_entry(project: Path) -> None:
    text = (
        "stages: {more: {params: {levels: [7]}, each: {c: {}}}, more-b: {params: {levels: [8]}}}\n"
    )
    manifest = above(project, text)
    assert [value(manifest, f"more-{label}", "levels") for label in "abc"] == [(7,), (8,), (7,)]


def test_a_new_entry_has_what_lower_layers_say_of_its_siblings(project: Path) -> None:
    text = SHORT.replace("params: {levels: [5]}", "params: {levels: [5], is_strict: true}")
    text += "  p: {defaults: {join: {params: {levels: [9]}}}, stages: {more: {each: {c: {}}}}}\n"
    params = [load(project, text, profile="p").stages[f"more-{each}"].params for each in "ac"]
    assert [(each.levels, each.is_strict) for each in params] == [((9,), True), ((9,), True)]  # type: ignore[attr-defined]


def test_a_new_entry_has_the_words_of_its_layer_over_the_defaults_of_its_layer(
    project: Path,
) -> None:
    whole = "more: {params: {levels: [4]}, each: {c: {}}}"
    text = f"{SHORT}  p: {{defaults: {{join: {{params: {{levels: [9]}}}}}}, stages: {{{whole}}}}}\n"
    manifest = load(project, text, profile="p")
    assert [value(manifest, f"more-{label}", "levels") for label in "ac"] == [(4,), (4,)]


def test_a_new_entry_has_the_defaults_of_a_layer_that_does_not_name_its_siblings(
    project: Path,
) -> None:
    text = SHORT + "  p: {defaults: {join: {params: {levels: [9]}}}}\n"
    text += "  q: {extends: p, stages: {more: {each: {c: {}}}}}\n"
    assert value(load(project, text, profile="q"), "more-c", "levels") == (9,)


def test_an_entry_is_a_stage_like_any_other_for_profiles_and_set(project: Path) -> None:
    text = SHORT + "  p: {stages: {more-a: {params: {levels: [1]}}}}\n"
    overrides = ["stages.more-b.params.name=x", "stages.more.params.is_strict=true"]
    manifest = load(project, text, profile="p", overrides=overrides)
    assert value(manifest, "more-a", "levels") == (1,)
    assert value(manifest, "more-b", "name") == "x"
    assert value(manifest, "more-a", "is_strict") is value(manifest, "more-b", "is_strict") is True
    gone = load(project, overrides=["stages.more.each.a=null"])
    assert reads(gone, "joined")["extra"] == {"b": "more-b.rows"}


def test_profiles_may_name_an_entry_that_a_manifest_above_took_away(project: Path) -> None:
    write_manifest(project, SHORT + "  p: {stages: {more: {each: {a: {params: {name: x}}}}}}\n")
    head = "r1pipe: 1\nname: above\nextends: small.yaml\n"
    for text in ("more: {each: {a: null}}", "more-a: null"):
        path = write_manifest(project, f"{head}stages: {{{text}}}\n", "above")
        assert "more-a" not in load_manifest(path, profile="p").stages


def test_null_takes_all_entries_away(project: Path) -> None:
    manifest = above(project, "stages: {more: null, joined: {inputs: {extra: null}}}\n")
    assert list(manifest.stages) == ["numbers", "few", "joined"]


def test_a_manifest_above_may_split_a_stage_into_several(project: Path) -> None:
    text = (
        "stages: {numbers: {each: {x: {}, y: {params: {rate: 0.4}}}}, more: null, joined: null}\n"
    )
    manifest = above(project, text)
    assert list(manifest.stages) == ["few", "numbers-x", "numbers-y"]
    assert [value(manifest, f"numbers-{each}", "rate") for each in "xy"] == [0.1, 0.4]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "each:\n      a: {params: {name: first}}\n      b: {inputs: {rows: few.rows}}",
            "each: {}",
            "small.yaml:14:11: stages.more.each has no entries; write it as {LABEL: {...}, ...}",
        ),
        (
            "a: {params: {name: first}}",
            "a: 3",
            "small.yaml:15:10: stages.more.each.a should be a mapping or null",
        ),
        (
            "a: {params: {name: first}}",
            "a.c: {}",
            "small.yaml:15:7: the name 'a.c' may hold letters, digits, - and _ only",
        ),
        (
            "a: {params: {name: first}}",
            "a: {params: {name: 3, levls: []}}",
            "small.yaml:15:29: unknown key 'levls' in stages.more.each.a.params; did you mean"
            " 'levels'?",
        ),
        (
            "{levels: [5]}",
            "{levels: 5}",
            "small.yaml:13:22: stages.more.params.levels should be a list, not 5",
        ),
        (
            "  few: {kind",
            "  more-a: {kind: numbers}\n  few: {kind",
            "small.yaml:16:7: 'more-a' is the entry 'a' of 'more' too; keep one of the two",
        ),
        (
            "a: {params: {name: first}}",
            "a: null",
            "small.yaml:15:7: stages.more.each has no entry 'a' to take away; there are no entries",
        ),
        (
            "extra: more.*.rows",
            "extra: few.*.rows",
            "small.yaml:17:60: stages.joined.inputs.extra: no stage 'few' with 'each', as"
            " 'few.*.rows' says; stages with 'each': more",
        ),
        (
            "extra: more.*.rows",
            "extra: more.*.row",
            "small.yaml:17:60: 'more-a' has no output 'row'; did you mean 'rows'?",
        ),
        (
            "rows: numbers.rows, extra: more.*.rows",
            "rows: more.*.rows",
            "small.yaml:17:39: stages.joined.inputs.rows: takes one reference, and 'more.*.rows'"
            " stands for several; name one stage",
        ),
        (
            "rows: numbers.rows, extra: more.*.rows",
            "rows: more.rows",
            "small.yaml:17:39: stages.joined.inputs.rows: 'more' stands for several stages; name"
            " one of them: more-a, more-b",
        ),
        (
            "extra: more.*.rows",
            "extra: {x: more.*.rows}",
            "small.yaml:17:64: stages.joined.inputs.extra.x: 'more.*.rows' stands for all"
            " references; write it in place of the mapping",
        ),
    ],
)
def test_a_mistake_with_several_stages_is_reported_once(
    project: Path, old: str, new: str, message: str
) -> None:
    found = mistakes_of(write_manifest(project, SHORT.replace(old, new)))
    assert message in found
    assert len({line.split(": ")[0] for line in found}) == len(found)


def test_an_entry_that_would_be_a_stage_from_below_is_a_mistake(project: Path) -> None:
    text = "stages: {more: {each: {a-b: {}}}, more-a: {each: {b: {}}}}\n"
    message = "stages.more-a.each.b would be the stage 'more-a-b', which is there already"
    assert f"above.yaml:4:51: {message}; rename one of the two" in mistakes_above(project, text)


def test_null_for_a_label_of_a_star_says_where_entries_are_taken_away(project: Path) -> None:
    assert mistakes_above(project, "stages: {joined: {inputs: {extra: {a: null}}}}\n") == [
        "above.yaml:4:28: stages.joined.inputs.extra is 'more.*.rows'; take entries of 'more' away"
        " instead: stages: {more: {each: {a: null}}}"
    ]


def test_a_star_whose_entries_are_all_gone_is_a_mistake(project: Path) -> None:
    assert mistakes_above(project, "stages: {more: {each: {a: null, b: null}}}\n") == [
        "small.yaml:17:60: stages.joined.inputs.extra: 'more.*.rows' names nothing: every entry of"
        " 'more' was taken away"
    ]


def test_an_unknown_entry_to_take_away_and_an_unknown_group_have_nearest_names(
    project: Path,
) -> None:
    text = "stages: {more: {each: {aa: null}}}\nprofiles: {p: {stages: {mor: {each: {a: {}}}}}}\n"
    assert mistakes_above(project, text) == [
        "above.yaml:4:24: stages.more.each has no entry 'aa' to take away; did you mean 'a'?",
        "above.yaml:5:25: unknown stage 'mor'; did you mean 'more'?",
    ]


# ---- targets -------------------------------------------------------------------------------------


def test_what_the_targets_do_not_need_falls_away(project: Path) -> None:
    assert list(above(project, "targets: [more-b]\n").stages) == ["few", "more-b"]
    assert list(above(project, "targets: [more]\n").stages) == [
        "numbers",
        "few",
        "more-a",
        "more-b",
    ]
    assert list(above(project, "targets: [few, numbers]\n").stages) == ["numbers", "few"]


def test_what_falls_away_may_read_what_is_gone_and_be_named_by_profiles(project: Path) -> None:
    text = "targets: [few]\nstages: {numbers: null}\n"
    manifest = above(project, text, profile="tiny", overrides=["stages.joined.params.levels=[2]"])
    assert list(manifest.stages) == ["few"]


def test_a_profile_may_have_its_own_targets(project: Path) -> None:
    text = SHORT.replace("    extends: tiny", "    extends: tiny\n    targets: [few]")
    assert list(load(project, text, profile="tiniest").stages) == ["few"]
    assert len(load(project, text, profile="tiny").stages) == 5


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("[fwe]", "above.yaml:4:11: no stage 'fwe' to be a target; did you mean 'few'?"),
        ("[]", "above.yaml:4:10: 'targets' is empty; name a stage or leave it out"),
        ("few", "above.yaml:4:10: targets should be a list, not 'few'"),
        ("[[few]]", 'above.yaml:4:11: targets.0 should be text, not ["few"]'),
    ],
)
def test_targets_that_are_none_are_reported(project: Path, targets: str, message: str) -> None:
    assert mistakes_above(project, f"targets: {targets}\n") == [message]


# ---- the recipe's kinds --------------------------------------------------------------------------


def test_an_unknown_reward_has_its_nearest_name() -> None:
    said = "stages.zero.params.rewards={lenght: 1}"
    (line,) = mistakes_of(R1, overrides=[said])
    end = "unknown reward 'lenght' in stages.zero.params.rewards; did you mean 'length'?"
    assert line == f"--set {said}: {end}"
    said = "defaults.grpo.params.rewards.brevity=1.0"
    (line,) = mistakes_of(R1, overrides=[said])
    names = "accuracy, code, format, format_chat, format_zero, language, length, overlong"
    end = f"in defaults.grpo.params.rewards; rewards: {names}"
    assert line == f"--set {said}: unknown reward 'brevity' {end}"


def test_what_a_stage_lacks_beside_its_defaults_is_reported_at_the_stage(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    path = tmp_path / "manifests" / "other.yaml"
    stage = (
        "{kind: pretrain, inputs: {tokenizer: tokenizer, rows: corpus}, params: {architecture: {"
    )
    path.write_text(
        f"r1pipe: 1\nname: x\nextends: {R1}\nstages:\n  own: {stage}hidden_size: 8}}}}}}\n"
    )
    label = "stages.own.params.architecture"
    found = [line for line in mistakes_of(path) if "missing" in line]
    assert found == [
        f"other.yaml:5:80: {label}.{name} is missing and has no default"
        for name in ("intermediate_size", "num_layers")
    ]


def test_a_scoreboard_that_names_an_entry_that_was_taken_away_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    path = tmp_path / "manifests" / "ablation.yaml"
    entries = "{dev3: null, r1: null}"
    path.write_text(f"r1pipe: 1\nname: x\nextends: {R1}\nstages: {{eval: {{each: {entries}}}}}\n")
    (line,) = mistakes_of(path)
    assert "stages.scoreboard.params names dev3, r1, but inputs.reports has only base, " in line
    assert line.endswith("; name no others in the params")
    text = path.read_text().replace("}}}", "}}, scoreboard: {params: {models: [base, zero]}}}")
    path.write_text(text)
    assert "eval-dev3" not in load_manifest(path).stages
