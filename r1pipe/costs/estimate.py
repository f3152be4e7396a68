"""Walk a manifest: from sources and finished results to what each stage will cost.

What a stage will write is what the stages after it will read; if a result is in the store
already, its own config and counts are taken instead.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.costs import memory, rates, sources
from r1pipe.costs.hints import hints
from r1pipe.costs.lengths import earlier_lengths
from r1pipe.costs.models import model_from_config
from r1pipe.costs.placement import Misfit, Room, misfits
from r1pipe.costs.work import (
    NOTHING,
    Cost,
    Estimate,
    Info,
    ModelInfo,
    ProblemsInfo,
    Range,
    RowsInfo,
    SamplingWork,
)
from r1pipe.errors import R1PipeError
from r1pipe.generator_settings import Expected
from r1pipe.keys import JsonObject
from r1pipe.text import format_bytes

if TYPE_CHECKING:
    from r1pipe.machine import Machine
    from r1pipe.manifest import Manifest, Ref, StageNode
    from r1pipe.stage import StageModel
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

START_S = Range(0.3, 6.0)
"""Importing what a stage needs, loading and saving a model."""
LIGHT_START_S = Range(0.0, 0.5)
"""The same, of a stage without a model."""
ROW_FACTS = (("rows",), ("num_rows",), ("reasoning_rows", "general_rows"))
"""Notes of finished stages that say how many rows they wrote."""


class Unknown(Exception):  # noqa: N818 - nothing went wrong, there is only nothing to say
    """A stage whose cost cannot be told, and why."""


class Estimator:
    """Estimates the stages of one manifest; `records` are the results that are there."""

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        records: Mapping[str, ActionRecord],
        calibration: rates.Calibration | None,
        machine: Machine,
    ) -> None:
        self.manifest = manifest
        self.store = store
        self.records = records
        self.calibration = calibration
        self.machine = machine
        self.room = Room(machine)
        self.assumed_sources: dict[str, str] = {}
        self._costs: dict[str, Cost | Unknown] = {}

    def estimate(self, name: str) -> Estimate:
        """Return what a stage will cost; raises Unknown."""
        cost = self.cost(name)
        try:
            return self._estimated(cost, self.manifest.stages[name])
        except (ArithmeticError, AssertionError) as error:
            # an estimate decides nothing: no run of days may end by one
            raise Unknown(f"its cost() gives odd values: {error or type(error)}") from error

    def prediction(self, name: str) -> JsonObject:
        """Return an estimate as the JSON values that are kept with the result; raises Unknown."""
        exact = [work.completions for work in self.cost(name).sampling]
        is_exact = bool(exact) and all(each.low == each.high for each in exact)
        return self.estimate(name).to_json() | {
            "completions": sum(each.low for each in exact) if is_exact else None,
            "calibrated": self.calibration.made if self.calibration else None,
        }

    def misfits(self, name: str) -> list[Misfit]:
        """Return what of a stage cannot start where it was placed."""
        cost = None
        with suppress(Unknown):
            cost = self.cost(name)
        return list(dict.fromkeys(misfits(self.manifest.stages[name].run, cost, self.room)))

    def cost(self, name: str) -> Cost:
        """Return the work of a stage in its own words; raises Unknown."""
        if name not in self._costs:
            try:
                self._costs[name] = self._asked(self.manifest.stages[name])
            except Unknown as reason:
                self._costs[name] = reason
        found = self._costs[name]
        if isinstance(found, Unknown):
            raise found
        return found

    def tokenizer_folder(self, ref: Ref) -> Path | None:
        """Return a folder that has the tokenizer of a model; None if none is known."""
        with suppress(Unknown):
            info = self._info(ref)
            return info.tokenizer if isinstance(info, ModelInfo) else None
        return None

    def forget(self, names: Iterable[str]) -> None:
        """Ask again for stages whose inputs are finished by now."""
        for name in names:
            self._costs.pop(name, None)

    def _asked(self, node: StageNode) -> Cost:
        if node.kind.cost is None:
            raise Unknown(f"kind {node.kind.kind} does not say what it costs")
        inputs = {
            name: self._info(given)
            if not isinstance(given, Mapping)
            else {label: self._info(ref) for label, ref in given.items()}
            for name, given in node.inputs.items()
        }
        try:
            cost = node.kind.cost(node.params, self._expecting(node), inputs)
        except Exception as error:  # a stage file's own function; its stage may still run
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(node.kind.path)]
            where = f"{node.kind.path}:{(lines or [1])[-1]}"
            what = f"{type(error).__name__}: {error}"
            raise Unknown(f"{where}: cost() of kind {node.kind.kind} failed: {what}") from error
        if not isinstance(cost, Cost):
            raise Unknown(f"{node.kind.path}: cost() returned {cost!r}, not a Cost")
        return cost

    def _expecting(self, node: StageNode) -> StageModel:
        """Return a stage's run settings; lengths that they do not expect are an earlier run's."""
        expect = getattr(node.run, "expect", None)
        if not isinstance(expect, Expected) or expect.completion_tokens is not None:
            return node.run
        ref, model = node.inputs.get("model"), None
        if ref is not None and not isinstance(ref, Mapping) and ref.name in self.records:
            model = self.records[ref.name].outputs.get(str(ref.output))
        with suppress(OSError, R1PipeError):  # a store that cannot be read tells no lengths
            if (found := earlier_lengths(self.store, node, model)) is not None:
                return node.run.model_copy(update={"expect": found})
        return node.run

    def _info(self, ref: Ref) -> Info:
        """Return what is known of what a reference reads."""
        if ref.is_source:
            info, assumption = sources.source_info(self.manifest.sources[ref.name])
            if assumption:
                self.assumed_sources[ref.name] = assumption
            return info
        output = str(ref.output)
        record = self.records.get(ref.name)
        if record is not None and (model := _model_of(self.store, record, output)) is not None:
            return model
        try:
            info = self.cost(ref.name).outputs[output]
        except Unknown as reason:
            text = str(reason)
            is_told = text.startswith("what ")  # by the first stage that could not be estimated
            raise Unknown(text if is_told else f"what {ref.name} writes: {text}") from None
        except KeyError:
            raise Unknown(f"cost() of {ref.name} does not name its output {output}") from None
        return info if record is None else _counted(info, record, output)

    def _estimated(self, cost: Cost, node: StageNode) -> Estimate:
        training = [rates.training_seconds(each, self.calibration) for each in cost.training]
        sampling = [
            rates.sampling_seconds(each, self.calibration, self._slots(cost, each))
            for each in cost.sampling
        ]
        places = cost.places
        assumed = {
            rates.assumption(where)
            for (_, is_measured), where in zip((*training, *sampling), places, strict=True)
            if not is_measured
        }
        seconds = cost.other_s + _together(cost, _summed(training), _summed(sampling))
        seconds += START_S if places else LIGHT_START_S
        for start_s in {where.backend: where.start_s for where in places}.values():
            seconds += Range(*start_s)
        device = next((p.device for p in places if not p.device.startswith("cpu")), "cpu")
        peak = self._peak(cost, device)
        scratch = sum((memory.checkpoint_bytes(work) for work in cost.training), NOTHING)
        scratch += sum((memory.journal_bytes(work) for work in cost.sampling), NOTHING)
        return Estimate(
            trained_tokens=sum((work.tokens for work in cost.training if work.is_counted), NOTHING),
            sampled_tokens=sum((work.tokens for work in cost.sampling), NOTHING),
            seconds=seconds,
            peak_bytes=peak,
            disk_bytes=sum(
                (memory.artifact_bytes(cost.outputs.get(name)) for name in node.kind.outputs),
                NOTHING,
            ),
            scratch_bytes=scratch,
            device=device,
            devices=_num_devices(cost),
            assumes=(*cost.assumes, *sorted(assumed)),
            warnings=(
                *self._too_large(peak, device),
                *hints(cost, has_bfloat16=self.machine.has_bfloat16),
            ),
        )

    def _slots(self, cost: Cost, work: SamplingWork) -> Range:
        """Return how many completions one of its engines decodes together."""
        device = work.where.device
        room, default = self.room.device_bytes(device), self.room.default_seqs(device)
        return memory.slots(work, room, default, is_alone=cost.has_alone(work))

    def _peak(self, cost: Cost, device: str) -> Range:
        """Return the most one device has to hold: trainer and sampler, one of them or both.

        Beside an engine that sleeps while the policy trains, only what stays is held.
        """
        training = [memory.training_bytes(work) for work in cost.training]
        sampling = [
            memory.sampling_bytes(
                work, self.room.device_bytes(work.where.device), cost.has_alone(work)
            )
            for work in cost.sampling
        ]
        is_light = not cost.training and not cost.sampling and not cost.held_bytes.high
        kind = "light" if is_light else device.partition(":")[0]
        process = memory.PROCESS_BYTES.get(kind, memory.PROCESS_BYTES["cuda"])
        is_beside = any(
            work.where.has_own_weights and not cost.has_alone(work) for work in cost.sampling
        )
        parts = [_largest([cost.held_bytes, *training]), _largest(sampling)]
        if is_beside and all(work.where.sleeps for work in cost.sampling):
            resident = sum(map(memory.resident_bytes, cost.training))
            return process + _largest([parts[0], parts[1] + Range(resident)])
        return process + (parts[0] + parts[1] if is_beside else _largest(parts))

    def _too_large(self, peak: Range, device: str) -> tuple[str, ...]:
        room = self.room.device_bytes(device)
        if not room or peak.high <= room:
            return ()
        what = "this machine" if device.startswith("cpu") else "a GPU"
        fits = "may not fit" if peak.low <= room else "does not fit"
        advice = "lower run.micro_batch_tokens or run.max_batch, or divide it (run.engine)"
        return (f"{fits} the {format_bytes(room)} of {what}; {advice}",)


def _summed(times: Iterable[tuple[Range, bool]]) -> Range:
    return sum((seconds for seconds, _ in times), NOTHING)


def _together(cost: Cost, training: Range, sampling: Range) -> Range:
    """Return the time of training and sampling: one after the other, or one beside the other."""
    if not cost.rollouts_ahead:
        return training + sampling
    is_apart = all(map(cost.has_alone, cost.sampling))
    is_apart = is_apart and not any(where.device.startswith("cpu") for where in cost.places)
    return rates.overlapped(training, sampling, cost.rollouts_ahead, is_apart=is_apart)


def _num_devices(cost: Cost) -> int:
    """Return how many devices are taken at once: those of samplers apart from a trainer too."""
    trainers = max((work.where.processes for work in cost.training), default=0)
    apart = [w.where.processes for w in cost.sampling if cost.training and cost.has_alone(w)]
    beside = [w.where.processes for w in cost.sampling if not (cost.training and cost.has_alone(w))]
    return max(1, trainers + max(apart, default=0), max(beside, default=0))


def _largest(ranges: Iterable[Range]) -> Range:
    found = list(ranges) or [NOTHING]
    return Range(max(item.low for item in found), max(item.high for item in found))


def _model_of(store: Store, record: ActionRecord, output: str) -> ModelInfo | None:
    """Return the sizes of a finished model, from the config.json beside its weights."""
    if not store.has_artifact(record):
        return None
    folder = store.output_dir(record, output)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = model_from_config(json.loads((folder / "config.json").read_bytes()))
        return replace(found, tokenizer=folder)
    return None


def _counted(info: Info, record: ActionRecord, output: str) -> Info:
    """Return predicted rows or problems with the count that the finished stage noted."""
    facts: JsonObject = record.facts
    if isinstance(info, ProblemsInfo) and isinstance(facts.get("num_problems"), int):
        return replace(info, num_problems=Range(facts["num_problems"]))
    if isinstance(info, RowsInfo) and output == "rows":
        for names in ROW_FACTS:
            if all(isinstance(facts.get(name), int) for name in names):
                return replace(info, num_rows=Range(sum(facts[name] for name in names)))
    return info


def make_estimator(
    manifest: Manifest, store: Store, records: Mapping[str, ActionRecord]
) -> Estimator:
    """Return what estimates the stages of a manifest, with this machine's calibration."""
    from r1pipe.machine import read_machine

    machine = read_machine()
    calibration = rates.read_calibration(rates.calibration_path(machine.node))
    return Estimator(manifest, store, records, calibration, machine)
