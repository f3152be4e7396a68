"""Labelled pairs from public answer keys by rule: what `r1pipe audit --file` measures on.

    python benchmarks/answer_pairs.py --keys ../shared/data --part untouched --out pairs.jsonl
    r1pipe audit --file pairs.jsonl
    python benchmarks/answer_pairs.py --keys ../shared/data --against-themselves

`--keys` is a folder or a file of problems with gold answers, in any format that `r1pipe` reads.
Respellings of a gold answer (`KEEPS`) are right, perturbations (`CHANGES`) and spoiled completions
are wrong. A label never comes from a verifier: each rule says why it is certain, and what the
second reading (`answer_rules/values.py`) does not confirm is left out and counted.

A hash of the gold answer puts it into one of two parts. The verifier may be improved on `tuned`;
`untouched` is for measuring only. A third of the rules, by a hash of their names, make pairs of
the untouched part only (`rule_in_tuned` is false), so that no rule is learnt by heart either.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import TypedDict

from answer_rules import algebra, fractions, groups, integers, regions, words
from answer_rules.frames import SPOILED, framed
from answer_rules.keys import Gold, core_of, form_of, keys
from answer_rules.rule import Rule
from answer_rules.values import same_value, value_of

from r1pipe.audit.golds import check_golds
from r1pipe.records import Problem

MODULES = (integers, fractions, algebra, groups, regions, words)
KEEPS = {form: rules for module in MODULES for form, rules in module.KEEPS.items()}
CHANGES = {form: rules for module in MODULES for form, rules in module.CHANGES.items()}
PARTS = ("tuned", "untouched")
VALUED = {
    *("integer", "grouped", "decimal", "fraction", "surd", "pi", "constant", "algebra"),
    "complex",
}
"""Forms of one value, which the second reading confirms."""
SINGLE = ("integer", "grouped", "decimal", "fraction")
"""Forms that a completion is spoiled with."""
UNREAD = {
    *("thin_spaces", "word", "full_width", "true_sum", "mixed_number", "as_percent"),
    *("unicode_signs", "listed_with_another", "at_least", "by_sympy", "python_style"),
}
"""Rules whose spelling the second reading does not know; their own line is the argument."""
DRAWS = {"choice": 24, **dict.fromkeys(("base", "degree", "ratio", "text", "mixed", "set"), 3)}
"""How often a rule is tried on one gold answer, where keys have few of its form."""
MAX_ANSWER_CHARS = 200


class Row(TypedDict):
    """One labelled pair, as a line of the file."""

    gold: str
    completion: str
    label: str
    kind: str
    rule: str
    frame: str
    rule_in_tuned: bool
    source: str


def part_of(gold: str) -> str:
    """Return the part that a gold answer belongs to, by its hash."""
    return PARTS[hashlib.sha256(gold.strip().encode()).digest()[0] & 1]


def is_in_tuned(rule: str) -> bool:
    """Return whether a rule makes pairs of the tuned part too, by a hash of its name."""
    return hashlib.sha256(rule.encode()).digest()[0] % 3 != 0


def golds_of(found: Iterable[tuple[str, str]]) -> list[Gold]:
    """Return each gold answer that has a form once, and those made of others."""
    golds: dict[str, Gold] = {}
    for source, raw in found:
        core = core_of(raw)
        form = form_of(core)
        key = core if form in DRAWS else raw
        if form and (key not in golds or raw == core):
            golds[key] = Gold(raw, core, form, source)
    for gold in list(golds.values()):
        for core, form in made_of(gold):
            golds.setdefault(core, Gold(core, core, form, f"{gold.source} (made)"))
    return list(golds.values())


def made_of(gold: Gold) -> Iterator[tuple[str, str]]:
    """Yield gold answers of forms that keys have few of, made of the numbers of others."""
    rng = Random(gold.raw)
    if gold.form == "list":
        yield rf"\{{{gold.core}\}}", "set"
    if gold.form == "integer" and 1 < len(gold.core) < 4 and rng.random() < 0.4:
        n = abs(int(gold.core.replace(" ", "")))
        unit = rng.choice(("cm", "m", "kg", "g", "km", "min"))
        a, b, c = (rng.randrange(-20, 20) for _ in range(3))
        yield from (
            (rf"{n} \text{{ {unit}}}", "unit"),
            (rf"\${n}", "money"),
            (rf"{n}\%", "percent"),
            (rf"\begin{{pmatrix}} {n} & {a} \\ {b} & {c} \end{{pmatrix}}", "matrix"),
        )
        if form_of(f"{n % 7}{a % 7}{b % 7}_8") == "base" and n % 7:
            yield f"{n % 7}{a % 7}{b % 7}_8", "base"
    if gold.form == "surd" and gold.core[0] != "-" and len(gold.core) < 30:
        yield rf"{rng.randrange(2, 30)} \pm {gold.core}", "plus-minus"


def pairs_of(gold: Gold, part: str, dropped: Counter[str]) -> Iterator[Row]:
    """Yield the pairs of one gold answer, one for each rule that applies to its form."""
    rules: list[tuple[str, Rule | None, bool]] = [("as_it_is", None, True)]
    rules += [(rule.__name__, rule, True) for rule in KEEPS[gold.form]]
    rules += [(rule.__name__, rule, False) for rule in CHANGES[gold.form]]
    for name, rule, is_right in rules:
        if part == "tuned" and not is_in_tuned(name):
            continue
        for draw in range(DRAWS.get(gold.form, 1)):
            rng = Random(f"{gold.raw} {name} {draw}")
            answer = gold.core if rule is None else rule(gold.core, rng)
            if answer is None or len(answer) > MAX_ANSWER_CHARS or (rule and answer == gold.core):
                continue
            if gold.form in VALUED and name not in UNREAD and not confirmed(gold, answer, is_right):
                dropped[name] += 1
                continue
            frame, completion = framed(answer, gold.form, rng)
            yield row_of(gold, completion, is_right, name, frame)
    if gold.form in SINGLE:
        yield from spoiled(gold, part)


def spoiled(gold: Gold, part: str) -> Iterator[Row]:
    """Yield completions that do not answer with the right value, one for each of `SPOILED`."""
    for name, spoil in SPOILED.items():
        rng = Random(f"{gold.raw} {name}")
        other = next(
            (o for rule in CHANGES[gold.form][1:3] if (o := rule(gold.core, rng))), "54321"
        )
        is_other = confirmed(gold, other, is_right=False)
        if is_other and (part == "untouched" or is_in_tuned(name)):
            yield row_of(gold, spoil(gold.core, other), False, name, "spoiled")


def row_of(gold: Gold, completion: str, is_right: bool, rule: str, frame: str) -> Row:
    """Return a pair as a row."""
    return {
        "gold": gold.raw,
        "completion": completion,
        "label": "right" if is_right else "wrong",
        "kind": gold.form,
        "rule": rule,
        "frame": frame,
        "rule_in_tuned": is_in_tuned(rule),
        "source": gold.source,
    }


def confirmed(gold: Gold, answer: str, is_right: bool) -> bool:
    """Return whether a second reading finds the values equal, or different, as the label says."""
    values = [
        value_of(text.replace("{,}", "").replace(",", ""), gold.form == "complex")
        for text in (gold.core, answer)
    ]
    if values[0] is None or values[1] is None:
        return False
    return same_value(values[0], values[1]) == is_right


def chosen_pairs(golds: Iterable[Gold], part: str, per_rule: int) -> tuple[list[Row], Counter[str]]:
    """Return the pairs of a part, at most `per_rule` of each rule of each form, by hash of gold."""
    ordered = sorted(golds, key=lambda gold: hashlib.sha256(gold.raw.encode()).hexdigest())
    counts: dict[tuple[str, str], int] = defaultdict(int)
    rows: dict[tuple[str, str], Row] = {}
    dropped: Counter[str] = Counter()
    for gold in ordered:
        if part_of(gold.raw) != part:
            continue
        rules = (*KEEPS[gold.form], *CHANGES[gold.form])
        if all(counts[gold.form, rule.__name__] >= per_rule for rule in rules):
            continue
        for row in pairs_of(gold, part, dropped):
            key = (row["kind"], row["rule"])
            if counts[key] < per_rule and (row["gold"], row["completion"]) not in rows:
                counts[key] += 1
                rows[row["gold"], row["completion"]] = row
    return list(rows.values()), dropped


def against_themselves(found: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield how many gold answers of each file verify against themselves, and which do not."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for source, raw in found:
        by_file[source].append(raw)
    for source, raws in by_file.items():
        problems = [Problem(str(row), "math", "", raw) for row, raw in enumerate(raws)]
        report = check_golds(problems, max_unusable_frac=1.0)
        yield f"{source}: {len(report.usable):,} of {len(raws):,} = {1 - report.rate:.2%}"
        yield from (f"  {line}" for line in report.first())


def main() -> None:
    """Write the pairs of one part, or print how gold answers fare against themselves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=Path, required=True, help="a folder or file of problems")
    parser.add_argument("--gold", help="the column of the gold answers")
    parser.add_argument("--part", choices=PARTS, default="tuned")
    parser.add_argument("--per-rule", type=int, default=150, help="most pairs of one rule")
    parser.add_argument("--out", type=Path, help="where the pairs go (JSON lines)")
    parser.add_argument("--against-themselves", action="store_true")
    options = parser.parse_args()
    found = list(keys(options.keys, options.gold))
    if options.against_themselves:
        print("\n".join(against_themselves(found)))
        return
    golds = golds_of(found)
    rows, dropped = chosen_pairs(golds, options.part, options.per_rule)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if options.out is None:
        parser.error("--out is missing: say where the pairs go")
    options.out.write_text(text)
    labels = Counter((row["kind"], row["label"]) for row in rows)
    print(f"{len(found):,} gold answers, {len(golds):,} different ones of a form that has rules")
    print(
        f"{len(rows):,} pairs: {sum(n for (_, lab), n in labels.items() if lab == 'right'):,} right"
    )
    print(f"not confirmed and left out: {dict(dropped.most_common())}")
    for kind in sorted({kind for kind, _ in labels}):
        print(f"  {kind}: {labels[kind, 'right']:,} right, {labels[kind, 'wrong']:,} wrong")


if __name__ == "__main__":
    main()
