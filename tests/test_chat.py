"""`r1pipe chat`: several turns by the model's template, escaped, from a pipe and in a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import Run as RunCommand
from handed_world import handed
from terminal import typed

from r1pipe.chat import CHAT, HOUSE, R1_ZERO, Format
from r1pipe.cli import chatting
from r1pipe.cli.chatting import Conversation, Reply, format_for
from r1pipe.cli.streaming import Detokenizer, ReplyPrinter
from r1pipe.generate import backends
from r1pipe.generate.in_process import TransformersGenerator
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.generator_settings import SampleRun
from r1pipe.records import FinishReason


class Scripted:
    """A generator that says what it is told to, and remembers its prompts."""

    def __init__(self, *texts: str) -> None:
        self.tokenizer = tiny.tokenizer()
        self.texts = list(texts)
        self.prompts: list[str] = []

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        (request,) = requests
        self.prompts.append(self.tokenizer.decode(list(request.prompt_ids)))
        ids = self.tokenizer(self.texts.pop(0))["input_ids"]
        yield Sampled(0, [*ids, self.tokenizer.eos_token_id], [], FinishReason.STOP)

    def load_weights(self, tensors: object) -> None: ...
    def sleep(self) -> None: ...
    def close(self) -> None: ...


def talk(said: Scripted, fmt: Format = CHAT, context: int | None = None) -> Conversation:
    return Conversation(said, said.tokenizer, fmt, SamplingParams(), 0, context)


def test_a_turn_continues_the_conversation_without_the_thoughts_before() -> None:
    said = Scripted("<think>\n2 and 2\n</think>\n\nfour", "five")
    opened = talk(said, Format(system="count"))
    first = opened.reply("2+2")
    assert (first.thought, first.answer, first.finish_reason) == ("2 and 2", "four", "stop")
    second = opened.reply("one more")
    assert (second.thought, second.answer) == (None, "five")
    assert said.prompts == [
        "<|system|>count<|user|>2+2<|assistant|>",
        "<|system|>count<|user|>2+2<|assistant|>four<|end|><|user|>one more<|assistant|>",
    ]


def test_a_thought_that_is_not_closed_is_no_answer() -> None:
    reply = talk(Scripted("<think>\n2 and")).reply("2+2")
    assert (reply.thought, reply.answer) == ("2 and", "")


def test_r1_zero_is_asked_one_question_at_a_time() -> None:
    said = Scripted("<think>a</think> <answer>1</answer>", "<think>b</think> <answer>2</answer>")
    opened = talk(said, R1_ZERO)
    assert opened.reply("3 plus 4").answer == "<answer>1</answer>"
    opened.reply("second")
    assert said.prompts[1].endswith("User: second. Assistant:")
    assert "plus" not in said.prompts[1]


def test_the_oldest_turns_are_forgotten_where_the_context_is_full(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = Scripted("one", "two", "three")
    sizes = [len(said.tokenizer(f"<|user|>{t}<|assistant|>")["input_ids"]) for t in ("aaaa", "c")]
    opened = talk(said, context=2 * sizes[0] * 4 // 3)  # two turns of a size fit in its 75 %
    for text in ("aaaa", "bbbb", "c"):
        opened.reply(text)
    assert "aaaa" in said.prompts[0]
    assert said.prompts[-1].endswith("<|user|>c<|assistant|>")
    assert "aaaa" not in said.prompts[-1]
    assert "turns are forgotten" in capsys.readouterr().err


def test_the_format_is_that_of_the_stage_unless_another_is_chosen() -> None:
    own = {"think": ["[", "]"], "answer": "last-line", "system": "mine"}
    assert format_for({}, None, "") == CHAT
    assert format_for({"format": "r1-zero"}, None, "") == R1_ZERO
    assert format_for({"format": "r1-zero"}, "chat", "s") == Format(system="s")
    assert format_for({"prompt": {"system": "trained"}}, None, "").system == "trained"
    found = format_for({"format": own}, None, "")
    assert (found.think, found.answer, found.system) == (("[", "]"), "last-line", "mine")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    said = Scripted("<think>\nhm\x1b[2J\n</think>\n\nfour\x1b]0;x\x07\nand \u202eso", "five")

    @contextmanager
    def opened(*_: object) -> Iterator[tuple[Any, Any]]:
        sys.stdout.write("noise of a package")
        yield said, said.tokenizer

    monkeypatch.setattr(backends, "open_generator", opened)
    return said


class Telling(Scripted):
    """One that tells its tokens as they come."""

    on_tokens: Callable[[int, Sequence[int]], None] | None = None

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        for sampled in super().generate(requests, sampling):
            for size in range(1, len(sampled.token_ids) + 1):
                assert self.on_tokens is not None
                self.on_tokens(0, sampled.token_ids[:size])
            yield sampled


def test_text_is_told_as_it_is_generated_and_is_that_of_the_whole_reply() -> None:
    told: list[str] = []
    whole = "<think>\nso \u4f60\u597d \U0001f600\n</think>\n\nfour and five"
    reply = talk(Telling(whole)).reply("2+2", told.append)
    assert "".join(told) == whole
    assert len([text for text in told if text]) > 5
    assert not any("\ufffd" in text for text in told)
    assert (reply.thought, reply.answer) == ("so \u4f60\u597d \U0001f600", "four and five")


def test_an_interrupted_reply_ends_there_and_its_answer_stays_in_the_conversation() -> None:
    said = Telling("four and five", "<think>\nlong", "six")
    opened = talk(said)

    def interrupted_at(text: str, end: str) -> tuple[Reply, str]:
        told: list[str] = []

        def check() -> None:
            if end in "".join(told):
                raise KeyboardInterrupt

        return opened.reply(text, told.append, check), "".join(told)

    reply, told = interrupted_at("2+2", "four")
    assert told in ("four", "four ", "four a", "four an", "four and", "four and ")
    assert (reply.answer, reply.finish_reason) == (told.strip(), "interrupted")
    reply, _ = interrupted_at("go on", "lon")
    assert (reply.answer, reply.finish_reason) == ("", "interrupted")
    assert "long".startswith(reply.thought or "-")
    assert opened.reply("more").answer == "six"
    asked = f"<|user|>2+2<|assistant|>{told.strip()}<|end|><|user|>more<|assistant|>"
    assert said.prompts[-1] == asked, "a turn without an answer is forgotten"
    with pytest.raises(KeyboardInterrupt):
        talk(Interrupted()).reply("2+2")


class Interrupted(Scripted):
    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        raise KeyboardInterrupt
        yield


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>\n a b\n\n</think>\n\nfour\n\n", "a b\nfour\n"),
        ("<think></think>four", "four\n"),
        ("hm</think> four", "hm\nfour\n"),
        ("1 < 2 <thin <think>ice</thin", "1 < 2 <thin\nice</thin\n"),
        ("<think>never <think> ends ", "never <think> ends\n"),
        (" \n", ""),
    ],
)
def test_a_reply_is_printed_the_same_however_its_text_is_cut(
    text: str, shown: str, size: int
) -> None:
    file = io.StringIO()
    printer = ReplyPrinter(HOUSE, file)
    for start in range(0, len(text), size):
        printer.add(text[start : start + size])
    printer.end()
    assert file.getvalue() == shown


def test_a_thought_of_many_tokens_is_decoded_in_linear_time() -> None:
    class Counting:
        num_ids = 0

        def decode(self, ids: Sequence[int], **_: object) -> str:
            self.num_ids += len(ids)
            return "".join(map(chr, ids))

    counting: Any = Counting()
    text, ids = Detokenizer(counting), [ord("a")] * 1000 + [0xFFFD] * 1000
    told = "".join(text.text(ids[:size]) for size in range(1, 2001)) + text.text(ids, is_last=True)
    assert told == "".join(map(chr, ids))
    assert counting.num_ids < 2000 * 60


def given(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), "utf-8"))


def test_piped_lines_are_turns_and_answers_are_escaped(
    tmp_path: Path, r1pipe: RunCommand, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    given(monkeypatch, b"2+2\n\n\xff?\n")
    code, out, err = r1pipe("chat", "zero", *store)
    assert (code, out) == (0, "hm\\x1b[2J\nfour\\x1b]0;x\\x07\nand \\u202eso\nfive\n")
    assert "noise of a package" in err
    assert scripted.prompts[1].endswith("\\xff?<|assistant|>")


def test_as_json_each_turn_is_a_document_on_a_line(
    tmp_path: Path, r1pipe: RunCommand, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    given(monkeypatch, b"2+2\nmore\n")
    lines = r1pipe("chat", "zero", "--json", *store)[1].splitlines()
    first, second = map(json.loads, lines)
    assert (first["prompt"], first["thought"]) == ("2+2", "hm\x1b[2J")
    assert first["answer"] == "four\x1b]0;x\x07\nand \u202eso"
    assert (second["thought"], second["answer"], second["finish_reason"]) == (None, "five", "stop")


def test_what_is_no_model_is_refused_with_what_to_do(tmp_path: Path, r1pipe: RunCommand) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    code, _, err = r1pipe("chat", "rows", *store)
    assert code == 3
    assert "holds no model; name a stage that makes one" in err
    code, _, err = r1pipe("chat", "zero", "--url", "not a url", *store)
    assert code == 2
    assert "--url" in err


def test_ctrl_c_leaves_without_a_traceback(
    tmp_path: Path, r1pipe: RunCommand, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    monkeypatch.setattr(chatting, "turns_of_user", interrupted)
    code, out, err = r1pipe("chat", "zero", "--store", str(handed(tmp_path)[1].root))
    assert (code, out) == (0, "")
    assert "Traceback" not in err


IN_A_TERMINAL = """
import itertools, time
from r1pipe.chat import R1_ZERO
from r1pipe.cli.chat_command import _show
from r1pipe.cli.chatting import Conversation, turns_of_user
from r1pipe.generate.protocol import Sampled, SamplingParams
from r1pipe.generator_settings import SampleRun
from r1pipe.records import FinishReason

class Letters:
    eos_token_id = 0
    def __call__(self, text, **_): return {"input_ids": [*map(ord, text)]}
    def decode(self, ids, **_): return "".join(map(chr, ids))

class Slow:
    on_tokens = None
    load_weights = sleep = close = print
    says = [itertools.chain("<think>hm", itertools.repeat(chr(27))), "<think>a</think> so"]
    def generate(self, requests, sampling):
        ids = []
        for letter in self.says.pop(0):
            ids.append(ord(letter))
            self.on_tokens(0, ids)
            time.sleep(0.005)
        yield Sampled(0, ids, [], FinishReason.STOP)

talk = Conversation(Slow(), Letters(), R1_ZERO, SamplingParams(), 0, None)
for turn in turns_of_user(): _show(talk, turn)
"""


def test_in_a_terminal_thoughts_are_dimmed_and_ctrl_c_ends_a_reply_but_not_the_chat() -> None:
    code, seen = typed(
        [sys.executable, "-c", IN_A_TERMINAL],
        (b"> ", b"hello\n"),
        (rb"\x1b" + b"\x1b[0m", b"\x03"),  # the thought never ends
        (b"(ended after", b""),
        (b"> ", b"more\n"),
        (b"so", b""),
        (b"> ", b"\x04"),
    )
    assert code == 0
    assert b"\x1b[2mh\x1b[0m\x1b[2mm\x1b[0m" in seen
    assert b"\x1b[2ma\x1b[0m\r\nso" in seen
    assert b"<think>" not in seen


def test_a_tiny_model_answers_the_same_twice(
    tmp_path: Path, r1pipe: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root), "--max-tokens", "8")
    answers = []
    for _ in range(2):
        given(monkeypatch, b"1+1\n2+2\n")
        code, out, err = r1pipe("chat", "zero", "--json", *store)
        assert code == 0, err
        answers.append([json.loads(line) for line in out.splitlines()])
    assert answers[0] == answers[1]
    assert [answer["prompt"] for answer in answers[0]] == ["1+1", "2+2"]
    assert all(0 < answer["num_tokens"] <= 8 for answer in answers[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_tells_the_very_tokens_that_it_returns_and_can_be_stopped(workers: int) -> None:
    tokenizer = tiny.tokenizer()
    generator = TransformersGenerator(
        tiny.model(), end_ids=[-1], pad_id=tokenizer.pad_token_id, max_batch=4, workers=workers
    )
    request, sampling = Request((5, 6, 7), 3, 0), SamplingParams(max_tokens=6)
    (whole,) = generator.generate([request], sampling)
    told: list[tuple[int, list[int]]] = []
    generator.on_tokens = lambda index, ids: told.append((index, list(ids)))
    (again,) = generator.generate([request], sampling)
    assert told == [(0, whole.token_ids[:size]) for size in range(1, 7)]
    assert again == whole

    def stopped(index: int, ids: Sequence[int]) -> None:
        if len(ids) == 2:
            raise KeyboardInterrupt

    generator.on_tokens = stopped
    with pytest.raises(KeyboardInterrupt):
        list(generator.generate([request], sampling))
    generator.on_tokens = None
    assert list(generator.generate([request], sampling)) == [whole], "it samples as before"


@pytest.mark.parametrize(("positions", "wanted"), [(8192, 4096), (2048, 2048)])
def test_vllm_on_a_cpu_keeps_room_for_a_part_of_a_long_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, positions: int, wanted: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": positions}))
    runs: list[Any] = []

    @contextmanager
    def opened(folder: Path, run: Any, precision: str) -> Iterator[tuple[Any, Any]]:
        runs.append(run)
        yield None, None

    monkeypatch.setattr(backends, "open_generator", opened)
    sampling = SamplingParams(1.0, 1.0, 8)
    for backend in ("vllm", "transformers"):
        run = SampleRun.model_validate({"generator": {"backend": backend}})
        with chatting.conversation(tmp_path, CHAT, run, sampling, 1) as talk:
            assert talk.context == (wanted if backend == "vllm" else positions)
    assert runs[0].generator.max_model_tokens == wanted
    assert runs[1].generator == SampleRun().generator
