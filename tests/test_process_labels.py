"""Labels of steps: all continuations counted, shared prefixes, what is left out, resume."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, save_policy, stage, tokenizer

from r1pipe.errors import ArtifactError, Interrupted, StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.models.prompts import encode_prompt
from r1pipe.records import FinishReason, Problem, Verdict
from r1pipe.rejection.process_labels import Continuer, label
from r1pipe.rows import read_rows, write_problems, write_rows
from r1pipe.sandbox import strength
from r1pipe.stage import Inputs
from r1pipe.supervision.steps import line_ends
from r1pipe.verify import verify_many

VERIFY = "r1pipe.rejection.process_labels.verify_many"
DIGITS = "012"
NUM_STEPS = 3
"""The world of these tests: a completion is three lines with a digit each, then their sum."""


def completion(digits: str, answer: int) -> str:
    return "\n".join(digits) + f"\n\\boxed{{{answer}}}"


def problem_of(gold: int, name: str = "p") -> Problem:
    return Problem(name, "sums", f"three digits that sum to {gold}", str(gold))


def all_continuations(prefix: str) -> list[str]:
    """Return every way to go on from some lines: all digits that are left, and their true sum."""
    if "boxed" in prefix:
        return [""]
    said = prefix.split("\n") if prefix else []
    return [
        completion("".join([*said, *rest]), sum(map(int, [*said, *rest])))[len(prefix) :]
        for rest in product(DIGITS, repeat=NUM_STEPS - len(said))
    ]


class Enumerating:
    """Answers the i-th request of a prompt with the i-th of all continuations, over and over."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.prompts = {p.id: encode_prompt(tokenizer(), p.prompt, "chat") for p in problems}
        self.num_asked = 0
        self.seeds: list[int] = []
        self.fails_at = 0
        self.max_tokens = 0

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        self.num_asked += len(requests)
        self.max_tokens = sampling.max_tokens
        if self.fails_at and self.num_asked > self.fails_at:
            raise SamplingFailed("the server is gone")
        places = Counter[tuple[int, ...]]()
        for request in reversed(requests):
            self.seeds.append(request.seed)
            given = list(request.prompt_ids)
            prompt = next(ids for ids in self.prompts.values() if given[: len(ids)] == ids)
            ways = all_continuations(tokenizer().decode(given[len(prompt) :]))
            text = ways[places[request.prompt_ids] % len(ways)]
            places[request.prompt_ids] += 1
            ids = [*tokenizer()(text)["input_ids"], tokenizer().eos_token_id]
            yield Sampled(request.index, ids, [], FinishReason.STOP)

    def load_weights(self, tensors: Any) -> None: ...
    def sleep(self) -> None: ...
    def close(self) -> None: ...


def share_right(prefix: str, gold: int) -> float:
    """Return the share of all continuations whose sum is the gold answer, counted."""
    said = [int(digit) for digit in prefix.split("\n")]
    rest = list(product(map(int, DIGITS), repeat=NUM_STEPS - len(said)))
    return sum(sum(said) + sum(each) == gold for each in rest) / len(rest)


def candidate(problem: Problem, digits: str, answer: int, **more: Any) -> dict[str, Any]:
    text = completion(digits, answer)
    return {
        "id": f"{problem.id}#{digits}",
        "problem_id": problem.id,
        "task": problem.task,
        "language": "en",
        "format": "chat",
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": text,
        "verdict": "correct" if str(answer) == problem.gold else "wrong",
        "finish_reason": "stop",
    } | more


PROBLEMS = [problem_of(4, "four"), problem_of(6, "six")]
TABLE = [
    candidate(PROBLEMS[0], "022", 4),
    candidate(PROBLEMS[0], "020", 2),
    candidate(PROBLEMS[1], "222", 6),
    candidate(PROBLEMS[1], "122", 5),
]


def labels_of(
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    generator: Enumerating,
    table: Sequence[dict[str, Any]] = TABLE,
    stop_after: int = 0,
    sandbox: str = "full",
    **params: Any,
) -> tuple[list[dict[str, Any]], FakeContext]:
    """Run the stage with a generator in place of the model's."""

    @contextmanager
    def opened(*args: object) -> Iterator[Any]:
        yield generator, tokenizer()

    monkeypatch.setattr("r1pipe.generate.backends.open_generator", opened)
    write_rows(work / "candidates", table)
    write_problems(work / "problems", PROBLEMS)
    kind, context = stage("process-labels"), FakeContext(work / "attempt", stop_after=stop_after)
    values: dict[str, Any] = {"seed": 1, "num_continuations": 9, "max_tokens": 40}
    inputs = Inputs(
        {"candidates": work / "candidates", "problems": work / "problems", "model": work}
    )
    kind.run(context, kind.params(**(values | params)), kind.run_model(sandbox=sandbox), inputs)
    return list(read_rows(context.output("rows"))), context


def steps_of(row: dict[str, Any]) -> list[tuple[int, float]]:
    return [(step["end"], step["label"]) for step in row["steps"]]


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_labels_are_those_of_all_continuations_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    # nine continuations are all there are of two open digits, and a multiple of those of one
    rows, context = labels_of(tmp_path, monkeypatch, Enumerating(PROBLEMS), labels=labels)
    assert [row["candidate_id"] for row in rows] == [row["id"] for row in TABLE]
    for row, given in zip(rows, TABLE, strict=True):
        text, gold = given["completion"], int(given["gold"])
        ends = line_ends(text)
        shares = [share_right(text[:end], gold) for end in ends[:-1]]
        shares.append(float(given["verdict"] == "correct"))
        expected = shares if labels == "soft" else [float(share > 0) for share in shares]
        assert steps_of(row) == list(zip(ends, expected, strict=True))
    soft = [0.0 + 1 / 9, 1 / 3, 1.0, 1.0]  # of 022: 0 then 2 and 2; 02 then 2; 022 is 4
    if labels == "soft":
        assert [v for _, v in steps_of(rows[0])] == pytest.approx(soft)
    assert context.notes["steps"] == 4 * 4
    assert context.notes["good_steps"] == sum(v > 0 for row in rows for _, v in steps_of(row))
    assert rows[3]["num_correct"] == [0, 0, 0, 0], "1 + 2 + 2 at most: six is out of reach"


def test_candidates_that_begin_alike_share_their_continuations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Enumerating(PROBLEMS)
    together, _ = labels_of(tmp_path / "one", monkeypatch, generator)
    # 0, 02, 022, 020 of four; 2, 22, 222 and 1, 12, 122 of six
    assert generator.num_asked == 9 * (4 + 6) == len(set(generator.seeds))
    assert generator.max_tokens == 40
    apart = Enumerating(PROBLEMS)
    alone, _ = labels_of(tmp_path / "two", monkeypatch, apart, candidates_per_unit=1)
    assert apart.num_asked == 9 * 3 * 4
    assert set(apart.seeds) == set(generator.seeds), "a prefix has the same ones in any unit"
    assert alone == together


def test_hard_and_soft_labels_by_hand() -> None:
    assert [label(n, 8, "soft") for n in (0, 1, 8)] == [0.0, 0.125, 1.0]
    assert [label(n, 8, "hard") for n in (0, 1, 8)] == [0.0, 1.0, 1.0]


def test_what_gets_no_labels_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = [
        *TABLE[:2],
        candidate(PROBLEMS[0], "112", 4),
        candidate(PROBLEMS[0], "001", 1, finish_reason="length"),
        candidate(PROBLEMS[1], "000", 0, verdict="timeout"),
        candidate(PROBLEMS[1], "111", 3, completion=" \n"),
    ]
    rows, context = labels_of(
        tmp_path, monkeypatch, Enumerating(PROBLEMS), table, max_per_problem=2
    )
    assert len(rows) == 2
    found = {name: context.notes[name] for name in ("beyond_max_per_problem", "truncated",
             "undecided", "without_steps")}  # fmt: skip
    assert found == dict.fromkeys(found, 1)
    with pytest.raises(StageError, match=r"no candidate has steps .*'truncated': 1"):
        labels_of(tmp_path / "none", monkeypatch, Enumerating(PROBLEMS), table[3:5])
    bad = [{"prompt": "x", "completion": "y"}]
    with pytest.raises(ArtifactError, match="no column id, problem_id"):
        labels_of(tmp_path / "bad", monkeypatch, Enumerating(PROBLEMS), bad)


def test_a_stopped_run_samples_the_rest_and_ends_with_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"candidates_per_unit": 1, "labels": "soft"}
    whole, _ = labels_of(tmp_path / "whole", monkeypatch, Enumerating(PROBLEMS), **options)
    first, second = Enumerating(PROBLEMS), Enumerating(PROBLEMS)
    with pytest.raises(Interrupted, match="stopped by the test"):
        labels_of(tmp_path / "killed", monkeypatch, first, stop_after=2, **options)
    rows, _ = labels_of(tmp_path / "killed", monkeypatch, second, **options)
    assert rows == whole
    assert first.num_asked == second.num_asked == 2 * 27


def test_a_unit_that_fails_is_sampled_again_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Enumerating(PROBLEMS)
    failing.fails_at = 27
    with pytest.raises(StageError, match="3 units could not be sampled"):
        labels_of(tmp_path, monkeypatch, failing, candidates_per_unit=1)
    generator = Enumerating(PROBLEMS)
    rows, _ = labels_of(tmp_path, monkeypatch, generator, candidates_per_unit=1)
    assert len(rows) == 4
    assert generator.num_asked == 3 * 27


def test_continuations_that_the_verifier_cannot_decide_count_neither_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(pairs: Any) -> list[Verdict]:
        verdicts = list(verify_many(pairs))
        return [Verdict.TIMEOUT if n % 9 < 6 else v for n, v in enumerate(verdicts)]

    monkeypatch.setattr(VERIFY, faulty)
    generator = Enumerating(PROBLEMS)
    rows, _ = labels_of(tmp_path, monkeypatch, generator, TABLE[:1], labels="soft")
    # the last three of 00, 01, ..., 22 in reversed order are 02, 01, 00; of one digit: 2, 1, 0
    assert [v for _, v in steps_of(rows[0])] == pytest.approx([0.0, 1 / 3, 1.0, 1.0])
    monkeypatch.setattr(VERIFY, lambda pairs: [Verdict.CRASHED for _ in pairs])
    rows, context = labels_of(tmp_path / "all", monkeypatch, generator, TABLE[:1])
    assert steps_of(rows[0]) == [(len(TABLE[0]["completion"]), 1.0)]
    assert context.notes["undecided_steps"] == 3


def test_programs_are_run_in_a_sandbox_as_strong_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = set()

    def watched(pairs: Any) -> list[Verdict]:
        asked_for.add(os.environ.get(strength.VARIABLE))
        return list(verify_many(pairs))

    monkeypatch.delenv(strength.VARIABLE, raising=False)
    monkeypatch.setattr(VERIFY, watched)
    labels_of(tmp_path, monkeypatch, Enumerating(PROBLEMS), sandbox="weak")
    assert asked_for == {"weak"}
    assert strength.VARIABLE not in os.environ


def test_the_model_is_given_prompt_and_prefix_as_tokens() -> None:
    continuer = Continuer(tokenizer(), 2, 1)
    prefixes = continuer.prefixes(TABLE[0], PROBLEMS[0])
    assert [prefix.text for prefix in prefixes] == ["0", "0\n2", "0\n2\n2", TABLE[0]["completion"]]
    asked = continuer.requests(prefixes[:2])
    prompt = encode_prompt(tokenizer(), PROBLEMS[0].prompt, "chat")
    texts = ["0", "0", "0\n2", "0\n2"]
    expected = [(*prompt, *tokenizer()(t, add_special_tokens=False)["input_ids"]) for t in texts]
    assert [request.prompt_ids for request in asked] == expected
    assert [request.index for request in asked] == [0, 1, 2, 3]


def test_a_model_labels_the_steps_of_its_own_samples(tmp_path: Path) -> None:
    write_rows(tmp_path / "candidates", TABLE)
    write_problems(tmp_path / "problems", PROBLEMS)
    kind, context = stage("process-labels"), FakeContext(tmp_path / "attempt")
    inputs = Inputs({
        "candidates": tmp_path / "candidates",
        "problems": tmp_path / "problems",
        "model": save_policy(tmp_path / "model"),
    })  # fmt: skip
    params = kind.params(seed=1, num_continuations=2, max_tokens=8)
    kind.run(context, params, kind.run_model(), inputs)
    rows = list(read_rows(context.output("rows")))
    assert [len(row["steps"]) for row in rows] == [4, 4, 4, 4]
    assert [steps_of(row)[-1][1] for row in rows] == [1.0, 0.0, 1.0, 0.0]
