"""Other languages, files, tolerance; how strong the sandbox must be; its tables of calls."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import Run

from r1pipe.doctor.confinement import check_sandbox
from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.regular import UnfitError, parse_json
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.rules import rule_rewards
from r1pipe.sandbox import landlock, seccomp, strength
from r1pipe.sandbox.layers import LOST, NAMESPACES, REQUIRED
from r1pipe.sandbox.runners import RUNNERS, is_runnable
from r1pipe.sandbox.sandbox import run_python
from r1pipe.sandbox.session import Limits, Outcome, Sandbox, Status
from r1pipe.verify import verify, verify_many

DOUBLE = {
    "python": "print(int(input()) * 2)",
    "cpp": "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << 2 * n << '\\n'; }",
    "rust": (
        "use std::io;\nfn main() {\n    let mut s = String::new();\n"
        '    io::stdin().read_line(&mut s).unwrap();\n    println!("{}", 2 * '
        "s.trim().parse::<i64>().unwrap());\n}"
    ),
}


def block(program: str, fence: str = "python") -> str:
    return f"<think>a</think>\n```{fence}\n{program}\n```"


def asked(language: str = "python", **meta: object) -> Problem:
    tests = [{"input": "2\n", "output": "4"}, {"input": "21\n", "output": "42\n"}]
    meta = {"tests": tests, "language": language} | meta
    return Problem("p", "code", "", "", checker="code", meta=meta)


@pytest.mark.parametrize("language", RUNNERS)
def test_a_right_program_of_each_language_is_correct(language: str) -> None:
    if not is_runnable(language):
        pytest.skip(f"no {RUNNERS[language].compiler}")
    problem, fence = asked(language), language
    wrong = DOUBLE[language].replace("* 2", "* 3").replace("2 *", "3 *")
    texts = [DOUBLE[language], wrong, "no program at all {"]
    found = verify_many([(problem, block(text, fence)) for text in texts])
    assert found == [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG]
    other = "python" if language != "python" else "cpp"
    assert verify(problem, block(DOUBLE[language], other)) is Verdict.NO_ANSWER


COMPILED_ATTACKS = {
    "read at compile time": '#include "/etc/passwd"\nint main() {}',
    "take in bytes": 'asm(".incbin \\"/etc/passwd\\""); int main() {}',
    "endless template": "template<int N> struct A { A<N+1> a; }; A<0> a; int main() {}",
}


@pytest.mark.parametrize("name", COMPILED_ATTACKS)
def test_a_compiler_finds_nothing_outside(name: str) -> None:
    if not is_runnable("cpp"):
        pytest.skip("no g++")
    found = verify(asked("cpp"), block(COMPILED_ATTACKS[name], "cpp"))
    assert found is Verdict.WRONG


def test_a_compiled_program_starts_nothing_and_ends() -> None:
    if not is_runnable("cpp"):
        pytest.skip("no g++")
    head = "#include <unistd.h>\n#include <cstdio>\n#include <fcntl.h>\nint main() {"
    attacks = [
        'if (fork() >= 0) puts("4");}',
        'if (open("/tmp/r1pipe-left", O_CREAT | O_WRONLY, 0600) >= 0) puts("4");}',
        'execl("/bin/echo", "echo", "4", (char*)0);}',
    ]
    problem = asked("cpp", tests=[{"input": "", "output": "4"}], wall_s=2)
    texts = [block(head + each, "cpp") for each in [*attacks, "for (;;) {}}"]]
    assert verify_many([(problem, text) for text in texts]) == [
        *[Verdict.WRONG] * 3,
        Verdict.TIMEOUT,
    ]


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1pipe.verify.code.is_runnable", lambda language: False)
    with pytest.raises(StageError, match="programs in rust need rustc, which is not on PATH"):
        verify(asked("rust"), block("fn main() {}", "rust"))


def test_a_program_reads_and_writes_files() -> None:
    test = {"files": {"in.txt": "3 4"}, "output": "", "output_files": {"out.txt": "7\n"}}
    problem = asked(tests=[test])
    right = "a, b = map(int, open('in.txt').read().split())\nopen('out.txt', 'w').write(str(a + b))"
    assert verify(problem, block(right)) is Verdict.CORRECT
    for wrong in ("", "open('out.txt', 'w').write('8')", "import os; os.mkfifo('out.txt')"):
        assert verify(problem, block(f"pass\n{wrong}")) is Verdict.WRONG, wrong
    link = "import os; open('a', 'w').write('7'); os.symlink('a', 'out.txt')"
    assert verify(problem, block(link)) is Verdict.WRONG


@pytest.mark.parametrize(
    ("output", "is_right"),
    [
        ("x 0.3333333", True),
        ("x 3.333333e-1", True),
        ("x 0.334", False),
        ("y 0.3333333", False),
        ("x 0.3333333 1", False),
        ("x\n0.3333333", False),
        ("x nan", False),
        ("x 0.333_3333", False),
    ],
)
def test_numbers_may_differ_by_the_tolerance(output: str, is_right: bool) -> None:
    problem = asked(tests=[{"input": "", "output": "x 0.33333333333"}], tolerance=1e-6)
    program = block(f"print({output!r})")
    assert (verify(problem, program) is Verdict.CORRECT) == is_right
    exact = asked(tests=[{"input": "", "output": "x 0.33333333333"}])
    assert verify(exact, program) is Verdict.WRONG


def test_values_of_calls_may_differ_by_the_tolerance_too() -> None:
    calls = [{"call": "f()", "expected": [0.1, {"a": 1}]}]
    problem = asked(tests=[], calls=calls, tolerance=1e-9)
    right = ("[0.1 + 1e-12, {'a': 1.0}]", "(0.1, {'a': 1})")
    wrong = ("[0.1001, {'a': 1}]", "[0.1, {'a': True}]", "[0.1, {'a': 10 ** 400}]")
    for text in (*right, *wrong):
        found = verify(problem, block(f"f = lambda: {text}"))
        assert (found is Verdict.CORRECT) == (text in right), text


# ---- how strong ----------------------------------------------------------------------------------


def weak_outcome(*gone: str) -> Outcome:
    return Outcome(Status.OK, "", "", layers={name: name not in gone for name in REQUIRED})


def test_code_is_refused_where_a_layer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(strength.VARIABLE, raising=False)
    monkeypatch.setattr(strength, "found", lambda: weak_outcome("network", "files"))
    with pytest.raises(StageError, match=r"lacks network, files on this .* run\.sandbox: weak"):
        verify(asked(), block(DOUBLE["python"]))
    with strength.using("weak"):
        assert verify(asked(), block(DOUBLE["python"])) is Verdict.CORRECT
        assert strength.weakness() == f"network: {LOST['network']}; files: {LOST['files']}"
    with pytest.raises(StageError, match="lacks network"):
        strength.require()


def test_verify_refuses_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, r1pipe: Run
) -> None:
    monkeypatch.setattr(strength, "found", lambda: weak_outcome("files"))
    tests = [{"input": "2", "output": "4"}]
    case = {"gold": "", "completion": block(DOUBLE["python"]), "task": "code", "tests": tests}
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(case))
    code, out, err = r1pipe("verify", "--file", str(path))
    assert (code, out, len(err.splitlines())) == (1, "", 1), err
    code, out, _ = r1pipe("verify", "--file", str(path), "--sandbox", "weak")
    assert (code, json.loads(out)["verdict"]) == (0, "correct")


def test_without_namespaces_programs_still_run_and_are_limited() -> None:
    sandbox = Sandbox(NAMESPACES)
    try:
        outcome = run_python("open('a', 'w').write('x'); print(1)", sandbox=sandbox)
        assert (outcome.stdout, outcome.layers["mounts"]) == ("1\n", False), outcome
        deep = "import os\nfor _ in range(3_000):\n    os.mkdir('d')\n    os.chdir('d')\nprint(2)"
        assert run_python(deep, sandbox=sandbox).stdout == "2\n"
        late = run_python("while 1: pass", sandbox=sandbox, limits=Limits(wall_s=0.5))
        assert late.status is Status.TIMEOUT
    finally:
        sandbox.close()


def test_the_doctor_names_missing_layers_and_what_they_cost() -> None:
    (sandbox, languages) = check_sandbox(weak_outcome("mounts", "files"), "unshare: not permitted")
    assert (sandbox.status, sandbox.found) == ("warning", "missing: mounts, files")
    for part in (LOST["mounts"], LOST["files"], "run.sandbox is weak", "unshare: not permitted"):
        assert part in sandbox.advice
    assert "python" in languages.found
    assert check_sandbox(weak_outcome())[0].status == "ok"
    (dead,) = check_sandbox(Outcome(Status.CRASHED, "", "no memory"))
    assert "no memory" in dead.advice


def test_the_code_reward_of_a_verified_program_runs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("r1pipe.rewards.code.check", lambda *_: pytest.fail("it ran again"))
    weights = {"code": 1.0, "accuracy": 1.0}
    for is_right in (True, False):
        found = rule_rewards(asked(), Completion("text"), is_right, weights, "chat")
        assert found == {"code": float(is_right), "accuracy": float(is_right)}


# ---- tables --------------------------------------------------------------------------------------

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)"),
    "aarch64": ("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b"),
}
TABLES = ("_ALWAYS", "_NATIVE", "_COMPILER", "_ARGUMENTS")


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_of_calls_are_the_kernels(machine: str) -> None:
    path, pattern = HEADERS[machine]
    if not Path(path).exists():
        pytest.skip("no headers of the kernel")
    known = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", 79))
    ours = {k: v for t in TABLES for k, v in seccomp.table(getattr(seccomp, t), machine).items()}
    assert len(ours) > 100
    assert {k: v for k, v in ours.items() if k in known} == {
        k: known[k] for k in ours if k in known
    }
    assert {k for k in ours if k not in known} <= {
        "futex_wait",
        "futex_wake",
        "futex_waitv",
        "fchmodat2",
    }


def run_filter(profile: seccomp.Profile, machine: str, number: int, *arguments: int) -> int:
    """Run an assembled filter on one call, as the kernel would; return what it gives."""
    audit = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    data = {0: number, 4: audit} | {16 + 8 * i: value for i, value in enumerate(arguments)}
    code, place, held = seccomp.assemble(profile, machine, 77), 0, 0
    while True:
        operation, if_true, if_false, value = code[place]
        place += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            held = data.get(value, 0)
            continue
        test = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[operation]
        place += if_true if test else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
CALLS: list[tuple[seccomp.Profile, int, tuple[int, ...], int]] = [
    ("python", 0, (), ALLOW),  # read
    ("python", 59, (), EPERM),  # execve
    ("native", 59, (), ALLOW),
    ("python", 57, (), EPERM),  # fork
    ("compiler", 57, (), ALLOW),
    ("python", 56, (0x10F00,), ALLOW),  # clone of a thread
    ("python", 56, (0x11,), EPERM),
    ("compiler", 56, (0x11,), ALLOW),
    ("compiler", 56, (0x10000011,), EPERM),  # a user namespace
    ("python", 435, (), ENOSYS),  # clone3
    ("python", 72, (0, 1), ALLOW),  # fcntl F_GETFD
    ("python", 72, (0, 8), EPERM),  # F_SETOWN
    ("python", 302, (0, 7), ALLOW),  # prlimit64 of itself
    ("python", 302, (5, 7), EPERM),
    ("python", 234, (77, 77, 6), ALLOW),  # tgkill of itself
    ("python", 234, (76, 76, 6), EPERM),
    ("python", 62, (77, 9), EPERM),  # kill
    ("python", 90, (), EPERM),  # chmod
    ("python", 41, (), EPERM),  # socket
    ("python", 0x40000000, (), KILL),  # x32
    ("python", 999, (), EPERM),
]


@pytest.mark.parametrize(("profile", "number", "arguments", "given"), CALLS)
def test_the_filter_gives_each_call_its_answer(
    profile: seccomp.Profile, number: int, arguments: tuple[int, ...], given: int
) -> None:
    assert run_filter(profile, "x86_64", number, *arguments) == given


def test_a_filter_of_another_machine_ends_the_process() -> None:
    code = seccomp.assemble("python", "aarch64", 1)
    assert code[1] == (0x15, 1, 0, 0xC00000B7)
    assert code[2] == (0x06, 0, 0, KILL)
    assert all(jump < 256 for _, true, false, _ in code for jump in (true, false))
    assert run_filter("python", "aarch64", 63) == ALLOW
    assert run_filter("python", "aarch64", 198) == EPERM  # socket


def test_each_version_of_landlock_knows_its_rights() -> None:
    assert [landlock.rights_of(n) for n in (1, 2, 3, 4, 5, 7)] == [
        0x1FFF,
        0x3FFF,
        0x7FFF,
        0x7FFF,
        0xFFFF,
        0xFFFF,
    ]


@pytest.mark.parametrize(
    "text", ["[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[", "\x00", "9" * 5_000]
)
def test_json_of_a_stranger_is_bounded(text: str) -> None:
    with pytest.raises(UnfitError):
        parse_json(text.encode())


def test_json_within_bounds_is_read() -> None:
    deep = "[" * 100 + "]" * 100
    assert json.dumps(parse_json(deep.encode())).replace(" ", "") == deep
    brackets = json.dumps(["[" * 1_000, '\\"[', {"]": 1}])
    assert parse_json(brackets.encode()) == json.loads(brackets)
    with pytest.raises(UnfitError, match="more than 9"):
        parse_json(b'"12345678"', max_bytes=9)
