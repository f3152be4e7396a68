"""Chat templates of strangers: bounded in time and memory, and the tokens that they always gave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from chat_templates import FAMILIES, tokenizer_of
from tiny import tokenizer

from r1pipe.chat import CHAT_TEMPLATE
from r1pipe.errors import StageError
from r1pipe.models import templates
from r1pipe.models.prompts import encode_prompt
from r1pipe.models.templates import TemplateError, Worker, render_ids

ASKED = [{"role": "user", "content": "a \u6240 <b> {{ 1 }} \n 'q'"}]
TALK = [
    {"role": "system", "content": "s"},
    *ASKED,
    {"role": "assistant", "content": "<think>\nt\n</think>\n\nb"},
    *ASKED,
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    worker = Worker(limit_s=1.0)
    monkeypatch.setattr(templates, "_shared", worker)
    yield worker
    worker.close()


def with_template(template: str) -> Any:
    made = tokenizer().__class__(tokenizer_object=tokenizer().backend_tokenizer)
    made.eos_token, made.chat_template = "<|end|>", template
    return made


LOOPS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a number without end": "{% set ns = namespace(x=9) %}{{ ns.x ** (ns.x ** ns.x) }}",
    "a constant without end": "{{ 9 ** (9 ** 9) }}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
}
GROWS = {
    "a long text": "{{ 'a' * 10 ** 10 }}",
    "doubled": "{% set ns = namespace(s='aaaa') %}"
    "{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "a list": "{% set ns = namespace(s=[1]) %}"
    "{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
}


@pytest.mark.parametrize("template", [*LOOPS.values(), *GROWS.values()], ids=[*LOOPS, *GROWS])
def test_a_template_without_end_is_ended(impatient: Worker, template: str) -> None:
    with pytest.raises(StageError, match=r"the model's chat template (was ended after|takes more)"):
        render_ids(with_template(template), ASKED, {}, is_asked=True)
    ids = render_ids(with_template("{{ messages[0].content }}"), ASKED, {}, is_asked=True)
    assert tokenizer().decode(ids) == ASKED[0]["content"], "the next one is rendered"


BROKEN = {
    "system": "{{ ''.__class__.__mro__ }}",
    "files": "{% include '/etc/passwd' %}",
    "syntax": "{% for %}",
    "refusal": "{{ raise_exception('no \x1b[2J place') }}",
    "attribute": "{{ messages.__init__.__globals__['os'].system('true') }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("template", BROKEN.values(), ids=BROKEN)
def test_what_a_template_says_is_one_line_that_moves_no_cursor(
    impatient: Worker, template: str
) -> None:
    impatient.limit_s = 20.0
    with pytest.raises(TemplateError) as error:
        render_ids(with_template(template), ASKED, {}, is_asked=True)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    with pytest.raises(StageError, match="the model's chat template refuses a prompt: "):
        encode_prompt(with_template(template), "a", "chat")


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_transformers(name: str) -> None:
    made = tokenizer_of(name)
    if not made.chat_template:
        return
    for messages in (ASKED, TALK, TALK[1:]):
        for is_asked in (True, False):
            try:
                expected = made.apply_chat_template(
                    messages, add_generation_prompt=is_asked, tokenize=True, return_dict=False
                )
            except Exception:  # noqa: BLE001 - some take no system message
                with pytest.raises(TemplateError):
                    render_ids(made, messages, {}, is_asked=is_asked)
            else:
                assert render_ids(made, messages, {}, is_asked=is_asked) == expected


def test_r1pipes_own_template_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_worker", lambda: pytest.fail("a process was asked for"))
    assert tokenizer().chat_template == CHAT_TEMPLATE
    ids = render_ids(tokenizer(), ASKED, {}, is_asked=True)
    assert ids == tokenizer().apply_chat_template(
        ASKED, add_generation_prompt=True, tokenize=True, return_dict=False
    )


def test_a_fork_does_not_share_its_parents_process(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    worker.owner = os.getpid() + 1
    monkeypatch.setattr(templates, "_shared", worker)
    assert templates._worker() is not worker
