"""Rows and preferences from outside: what is written, what is left out and why, what trains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_templates import tokenizer_of
from data_forms import lines, parquet, saved
from data_forms import place as put
from shape_cases import BAD, LABELS, PAIRS, ROWS
from tiny import FakeContext, listed, model, stage

from r1pipe.data.training_sequences import training_sequences
from r1pipe.errors import StageError
from r1pipe.models.policy import save_model
from r1pipe.records import Row, messages_from_json
from r1pipe.rows import read_rows, write_rows
from r1pipe.stage import Inputs
from r1pipe.train.conversations import TurnEncoder

GOOD = [{"prompt": f"{n}+1?", "completion": str(n + 1)} for n in range(6)]


def source(tmp_path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as a file of JSON lines."""
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "given.jsonl"
    path.write_bytes(lines(rows))
    return path


def imported(
    tmp_path: Path, rows: Sequence[Row] | Path, kind: str = "import-rows", **params: Any
) -> tuple[list[Row], dict[str, Any]]:
    """Run an import; return what it wrote and noted."""
    path = rows if isinstance(rows, Path) else source(tmp_path, rows)
    importer, context = stage(kind), FakeContext(tmp_path / "work")
    chosen = importer.params(**params)
    importer.run(context, chosen, importer.run_model(), Inputs({"source": path}))
    return list(read_rows(context.output("rows"))), context.notes


# ---- every shape ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ROWS)
def test_every_shape_of_rows_is_imported_and_trained(tmp_path: Path, case: str) -> None:
    row, name, messages = ROWS[case]
    (written,), notes = imported(tmp_path, [row])
    assert notes["shape"] == name
    assert (notes["num_rows"], notes["num_read"], notes["num_bad_rows"]) == (1, 1, 0)
    assert written["completion"] == messages[-1].content
    assert (written["format"], written["task"], written["language"]) == ("chat", "general", "en")
    said = [each.content for each in messages[:-1] if each.role != "system"]
    assert written["prompt"] == "\n\n".join(said)
    if len(messages) == 2:
        assert written["messages"] is None
    else:
        assert messages_from_json(written["messages"]) == messages
    encoder = TurnEncoder(tokenizer_of("chatml"))
    again, _ = training_sequences(tmp_path / "work" / "out" / "rows", encoder, 10_000)
    assert list(map(listed, again)) == encoder.encode(messages, "every-turn")
    at_once, facts = training_sequences(tmp_path / "given.jsonl", encoder, 10_000)
    assert at_once == again, "the source itself trains the same"
    assert facts["shape"] == name


@pytest.mark.parametrize("case", PAIRS)
def test_every_shape_of_pairs_is_imported(tmp_path: Path, case: str) -> None:
    row, messages, rejected = PAIRS[case]
    (written,), notes = imported(tmp_path, [row], "import-preferences")
    assert notes["shape"] == "pairs"
    assert (written["chosen"], written["rejected"]) == (messages[-1].content, rejected)
    if len(messages) == 2:
        assert written["messages"] is None
        assert written["prompt"] == messages[0].content
    else:
        assert messages_from_json(written["messages"]) == messages[:-1]


@pytest.mark.parametrize("case", LABELS)
def test_every_shape_of_ratings_is_imported(tmp_path: Path, case: str) -> None:
    row, label = LABELS[case]
    (written,), notes = imported(tmp_path, [row], "import-preferences")
    assert notes["shape"] == "labels"
    assert (written["prompt"], written["completion"]) == ("2+3?", "5")
    assert written["is_safe"] == label


@pytest.mark.parametrize("form", ["jsonl", "parquet", "save_to_disk"])
def test_the_form_of_the_files_does_not_matter(tmp_path: Path, form: str) -> None:
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
            for q, a in (("1+1?", "2"), ("2+2?", "4"))]  # fmt: skip
    forms = {
        "jsonl": {"x.jsonl": lines(rows)},
        "parquet": {"data/train-00000-of-00001.parquet": parquet(rows)},
        "save_to_disk": saved(rows),
    }
    written, _ = imported(tmp_path, put(tmp_path / "given", forms[form]))
    assert [(row["prompt"], row["completion"]) for row in written] == [("1+1?", "2"), ("2+2?", "4")]


def test_r1pipes_own_rows_keep_what_they_say(tmp_path: Path) -> None:
    own = {
        "problem_id": "p-1",
        "task": "math",
        "language": "zh",
        "format": "r1-zero",
        "prompt": "1+1?",
        "completion": "<think>a</think> <answer>2</answer>",
        "source": "author",
    }
    write_rows(tmp_path / "own", [own])
    (written,), notes = imported(tmp_path, tmp_path / "own")
    assert written == own | {"messages": None}
    assert notes["shape"] == "r1pipe"


# ---- what is left out ----------------------------------------------------------------------------


def test_bad_rows_are_counted_by_reason_with_their_places(tmp_path: Path) -> None:
    bad: list[Row] = [{"prompt": "a", "completion": None}, {"prompt": "", "completion": "b"}]
    written, notes = imported(tmp_path, [*GOOD, *bad, bad[0]], max_bad_frac=0.5)
    assert len(written) == 6
    assert notes["bad_rows"] == {
        "completion is null, not text": {"count": 2, "first": ["given.jsonl:7", "given.jsonl:9"]},
        "prompt is empty": {"count": 1, "first": ["given.jsonl:8"]},
    }


def test_too_many_bad_rows_stop_the_stage_and_say_how_they_were_read(tmp_path: Path) -> None:
    bad = {"prompt": "a", "completion": ["b"]}
    match = (
        r"given\.jsonl: 1 of 7 rows cannot be used \(1 x completion holds text, not a message"
        r" \(first at given\.jsonl:7\)\); they were read as 'completion', trained as the answer to"
        r" 'prompt'"
    )
    with pytest.raises(StageError, match=match):
        imported(tmp_path, [*GOOD, bad])


WRITABLE = [case for case, (row, _) in BAD.items() if not any(
    isinstance(value, bytes) or (isinstance(value, str) and "\ud800" in value)
    for value in row.values()
)]  # fmt: skip


@pytest.mark.parametrize("case", WRITABLE)
def test_a_bad_row_never_ends_in_a_traceback(tmp_path: Path, case: str) -> None:
    row, _ = BAD[case]
    kind = "import-preferences" if {"chosen", "label"} & set(row) else "import-rows"
    with pytest.raises(StageError, match=r"1 of 1 rows cannot be used"):
        imported(tmp_path, [row], kind)


def test_equal_rows_go_and_other_answers_to_a_prompt_are_counted(tmp_path: Path) -> None:
    rows = [*GOOD, GOOD[0], GOOD[1] | {"completion": "two"}]
    written, notes = imported(tmp_path, rows)
    assert [row["completion"] for row in written] == ["1", "2", "3", "4", "5", "6", "two"]
    assert (notes["repeats"], notes["other_answers"]) == (1, 1)
    one, notes = imported(tmp_path, rows, duplicates="one-per-prompt")
    assert [row["completion"] for row in one] == ["1", "2", "3", "4", "5", "6"]
    assert (notes["repeats"], notes["other_answers"]) == (1, 1)
    assert len(imported(tmp_path, rows, duplicates="keep")[0]) == 8


def test_long_rows_go_and_are_counted(tmp_path: Path) -> None:
    written, notes = imported(
        tmp_path, [*GOOD, {"prompt": "a", "completion": "b" * 99}], max_chars=99
    )
    assert len(written) == 6
    assert notes["over_max_chars"] == 1


def test_a_limit_draws_rows_by_seed_in_their_order(tmp_path: Path) -> None:
    drawn = [imported(tmp_path, GOOD, num_rows=3, seed=seed)[0] for seed in range(8)]
    for rows in drawn:
        numbers = [int(row["completion"]) for row in rows]
        assert len(numbers) == 3
        assert numbers == sorted(numbers)
    assert len({tuple(row["source"] for row in rows) for rows in drawn}) > 1
    assert imported(tmp_path, GOOD, num_rows=3, seed=2)[0] == drawn[2]
    assert imported(tmp_path, GOOD, num_rows=3)[1]["over_num_rows"] == 3
    assert len(imported(tmp_path, GOOD, num_rows=99)[0]) == 6


def test_generations_give_one_row_or_every_correct_one(tmp_path: Path) -> None:
    row = {
        "problem": "2+3?",
        "generations": ["a", "b", "c"],
        "correctness_math_verify": [False, True, True],
    }
    none = row | {"correctness_math_verify": [False] * 3}
    written, notes = imported(tmp_path, [row, none])
    assert [each["completion"] for each in written] == ["b"]
    assert (notes["none_correct"], notes["num_bad_rows"]) == (1, 0)
    both, _ = imported(tmp_path, [row, none], generations="every-correct")
    assert [each["completion"] for each in both] == ["b", "c"]
    assert len({each["problem_id"] for each in both}) == 1


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"nothing of .*given\.jsonl is left to write"):
        imported(tmp_path, GOOD, max_chars=1)


# ---- what is asked for ---------------------------------------------------------------------------


def test_a_column_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no column 'promt'; did you mean 'prompt'\?"):
        imported(tmp_path, GOOD, columns={"prompt": "promt", "completion": "completion"})
    with pytest.raises(StageError, match=r"params\.columns prompt make no row; give prompt and"):
        imported(tmp_path, GOOD, columns={"prompt": "prompt"})


def test_rows_of_no_known_shape_say_what_to_do(tmp_path: Path) -> None:
    match = r"its columns are text, which is no shape of rows that is known; say what"
    with pytest.raises(StageError, match=match):
        imported(tmp_path, [{"text": "once"}])
    with pytest.raises(StageError, match=r"columns prompt, completion are not those of shape 'alp"):
        imported(tmp_path, GOOD, shape="alpaca")


def test_preferences_are_no_rows_and_rows_no_preferences(tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(
        StageError, match=r"kind import-preferences reads them.* completion: chosen"
    ):
        imported(tmp_path, [pair])
    with pytest.raises(StageError, match=r"not preferences; a stage of kind import-rows"):
        imported(tmp_path, GOOD, "import-preferences")
    columns = {"prompt": "prompt", "completion": "chosen"}
    assert imported(tmp_path, [pair], columns=columns)[0][0]["completion"] == "b"
    whole = PAIRS["ultrafeedback"][0]
    with pytest.raises(StageError, match=r"params\.columns: \{messages: chosen\}"):
        imported(tmp_path, [whole])
    written, _ = imported(tmp_path, [whole], columns={"messages": "chosen"})
    assert (written[0]["prompt"], written[0]["completion"]) == ("2+3?", "5")


def test_an_unknown_format_names_the_row_and_the_nearest(tmp_path: Path) -> None:
    rows = [row | {"format": "chat"} for row in GOOD]
    rows[2]["format"] = "Chat"
    with pytest.raises(StageError, match=r"given\.jsonl:3: format 'Chat'.*did you mean 'chat'\?"):
        imported(tmp_path, rows)


def test_a_format_of_ones_own_goes_into_the_rows(tmp_path: Path) -> None:
    written, _ = imported(tmp_path, GOOD, prompt={"suffix": "Box it."})
    assert {row["format"] for row in written} == {'{"suffix":"Box it."}'}
    encoder = TurnEncoder(tokenizer_of("chatml"))
    ((first, *_), _) = training_sequences(tmp_path / "work" / "out" / "rows", encoder, 1000)
    assert encoder.tokenizer.decode(list(first.prompt_ids)) == (
        "<|im_start|>user\n0+1?\nBox it.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_scores_become_ratings_from_the_least_good_one(tmp_path: Path) -> None:
    rows = [row | {"helpfulness": n} for n, row in enumerate(GOOD)]
    columns = {"prompt": "prompt", "completion": "completion", "label": "helpfulness"}
    written, _ = imported(tmp_path, rows, "import-preferences", columns=columns, good_from=3)
    assert [row["is_safe"] for row in written] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(StageError, match=r"outside 0 to 1; set params\.good_from"):
        imported(tmp_path, rows, "import-preferences", columns=columns)


# ---- the stages between ------------------------------------------------------------------------


def conversation(number: int) -> dict[str, Any]:
    said = [("system", "Be brief."), ("user", f"{number}+1?"), ("assistant", str(number + 1))]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def test_conversations_go_through_mix_and_decontamination(tmp_path: Path) -> None:
    imported(tmp_path / "a", [conversation(n) for n in range(5)])
    imported(tmp_path / "b", [{"prompt": f"{n}*2?", "completion": str(2 * n)} for n in range(5)])
    own = [{"problem_id": "p", "task": "t", "language": "en", "format": "chat", "prompt": "c",
            "completion": "d"}]  # fmt: skip
    write_rows(tmp_path / "own", own)
    parts = [tmp_path / name / "work" / "out" / "rows" for name in ("a", "b")] + [tmp_path / "own"]
    mix = stage("mix")
    for general, expected in ((parts[1], 5), (parts[2], 1)):
        context = FakeContext(tmp_path / f"mixed-{expected}")
        params = mix.params(seed=1, reasoning_rows=9, general_rows=9)
        inputs = Inputs({"reasoning": parts[0], "general": general})
        mix.run(context, params, mix.run_model(), inputs)
        mixed = list(read_rows(context.output("rows")))
        assert len(mixed) == 5 + expected
        turns = [row for row in mixed if row["messages"] is not None]
        assert {row["source"] for row in turns} == {"reasoning"}
        for row in turns:
            system, asked, said = messages_from_json(row["messages"])
            assert (system.content, asked.content) == ("Be brief.", row["prompt"])
            assert said.content == row["completion"]
    clean = stage("decontaminate")
    again = FakeContext(tmp_path / "clean")
    inputs = Inputs({"rows": context.output("rows"), "held_out": {"x": tmp_path / "own"}})
    clean.run(again, clean.params(num_canaries=1), clean.run_model(), inputs)
    assert list(read_rows(again.output("rows"))) == mixed


# ---- the stage that trains -----------------------------------------------------------------------


def sft(tmp_path: Path, rows: Path, tok: Any, **params: Any) -> dict[str, Any]:
    """Train a tiny model on a source; return what the stage noted."""
    policy = model()
    policy.resize_token_embeddings(len(tok))
    save_model(policy, tokenizer_of("chatml"), tmp_path / "base")
    kind, context = stage("sft"), FakeContext(tmp_path / "sft")
    values = {"seed": 1, "num_epochs": 1, "batch_size": 4, "max_tokens": 100} | params
    chosen = kind.params(**values, optimizer={"lr": 1e-3})
    inputs = Inputs({"model": tmp_path / "base", "rows": rows})
    kind.run(context, chosen, kind.run_model(), inputs)
    return context.notes


def test_sft_reads_any_shape_with_a_tokenizer_that_has_no_pad_token(tmp_path: Path) -> None:
    tok = tokenizer_of("chatml")
    assert tok.pad_token_id is None
    turns = [each for _, _, messages in ROWS.values() for each in [messages]]
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in t]} for t in turns]
    notes = sft(tmp_path, source(tmp_path, rows), tok)
    assert notes["num_rows"] == len(rows)
    assert notes["shape"] == "messages"


def test_sft_counts_bad_rows_and_stops_at_too_many(tmp_path: Path) -> None:
    rows = source(tmp_path, [*GOOD, {"prompt": "a", "completion": "<|im_end|>"}])
    notes = sft(tmp_path, rows, tokenizer_of("chatml"), max_bad_frac=0.2)
    reason = "the completion is only a token that ends a turn"
    assert notes["bad_rows"] == {reason: {"count": 1, "first": ["given.jsonl:7"]}}
    with pytest.raises(StageError, match=r"1 of 7 rows cannot be used"):
        sft(tmp_path, rows, tokenizer_of("chatml"))


def test_sft_says_which_kind_reads_preferences(tmp_path: Path) -> None:
    path = source(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(StageError, match=r"a stage of kind import-preferences reads them"):
        sft(tmp_path, path, tokenizer_of("chatml"))


def test_the_last_turn_alone_is_trained_where_that_is_asked_for(tmp_path: Path) -> None:
    ask, say = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}
    path = source(tmp_path, [{"messages": [ask, say, ask, say | {"content": "3"}]}])
    encoder = TurnEncoder(tokenizer_of("chatml"))
    ((both,), _) = training_sequences(path, encoder, 100)
    ((last,), _) = training_sequences(path, encoder, 100, train_on="last-turn")
    assert (both.num_trained, last.num_trained) == (4, 2)
    assert [*both.prompt_ids, *both.completion_ids] == [*last.prompt_ids, *last.completion_ids]


def test_keys_of_existing_stages_have_no_new_parameters() -> None:
    from r1pipe.manifest.nodes import params_without_defaults

    kind = stage("sft")
    values = {"seed": 1, "num_epochs": 1, "batch_size": 4, "max_tokens": 9}
    params = kind.params(**values, optimizer={"lr": 1e-3})
    assert params_without_defaults(params) == values | {"optimizer": {"lr": 1e-3}}
    assert json.loads(json.dumps(values)) == values
