"""The FLOPs, memory, hours and cost of every stage of an experiment on given GPUs.

A policy samples on the GPUs that the command line gives it. If a server samples, it uses all GPUs of the
stage, or all but one if a PRM reads too. A PRM has one GPU and reads after sampling. Training uses all GPUs
of the stage if a launcher starts it, else one. Not counted: loading models, grading answers, checkpoints,
batches that are not full.
Invariant: the hours of a stage are the sum of its sampling, reading and training; its cost is hours x GPUs
that it holds x price.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from forkpoint.planner.commands import Arguments, Planner, Workload
from forkpoint.planner.hardware import BYTES_TRAINING, HardwareConfig, ModelSize
from forkpoint.planner.pilot import Pilot
from forkpoint.planner.recipe import Recipe, Stage
from forkpoint.records import Cost

SECONDS_PER_HOUR = 3600
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "auto": 2}
"""Bytes of a weight by dtype; `auto` keeps the checkpoint's, which is assumed to be bfloat16."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """The estimate of one stage."""

    name: str
    num_gpus: int
    """GPUs that the stage holds."""
    sampled: Cost
    is_measured: bool
    """Whether `sampled` was scaled up from a pilot."""
    read_tokens: int
    """Tokens that the PRM reads."""
    trained_tokens: int
    flops: float
    sampling_hours: float
    reading_hours: float
    training_hours: float
    price_per_gpu_hour: float
    misfits: tuple[str, ...]
    """Models that do not fit into the GPUs' memory; hours assume GPUs of the same speed with enough
    memory."""

    @property
    def hours(self) -> float:
        return self.sampling_hours + self.reading_hours + self.training_hours

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.num_gpus

    @property
    def cost(self) -> float:
        return self.gpu_hours * self.price_per_gpu_hour


def estimate_recipe(
    recipe: Recipe,
    hardware: HardwareConfig,
    parse: Callable[[tuple[str, ...]], tuple[str, Arguments]],
    pilots: Mapping[str, Pilot] | None = None,
) -> list[StageEstimate]:
    """Every stage of `recipe` that samples, reads or trains.

    `parse` gives the name and the arguments of a command line without its first word; `pilots` has the pilots
    by the names of their stages. ValueError if a stage is not known, or if something that it is planned with
    is missing.
    """
    pilots = pilots or {}
    names = [stage.name for stage in recipe.stages]
    for name in pilots.keys() - set(names):
        raise ValueError(
            f"there is no stage {name!r} that a pilot could be for; choose from {', '.join(names)}"
        )
    hardware = replace(hardware, gpu=hardware.gpu or recipe.gpu)
    planner, prm_dtype, estimates = Planner(), "float32", []
    for stage in recipe.stages:
        if stage.command[0] != "forkpoint":
            continue
        command, arguments = parse(stage.command[1:])
        try:
            workload = planner.workload(
                command, arguments, [recipe.problems[name] for name in stage.problems], pilots.get(stage.name)
            )
            if workload.training is not None and workload.trains == "prm":
                prm_dtype = workload.training.dtype
            if workload != Workload():
                estimates.append(
                    estimate_stage(stage, workload, recipe.models, hardware, WEIGHT_BYTES[prm_dtype])
                )
        except ValueError as error:
            raise ValueError(f"stage {stage.name}: {error}") from None
    return estimates


def estimate_stage(
    stage: Stage,
    workload: Workload,
    models: Mapping[str, ModelSize],
    hardware: HardwareConfig,
    prm_weight_bytes: int,
) -> StageEstimate:
    """One stage on the hardware's GPU; its PRM has `prm_weight_bytes` bytes per weight."""
    flops = sampling_s = reading_s = training_s = 0.0
    needs: list[tuple[str, float, int]] = []
    if workload.sampled.sampled_tokens:
        policy = _model(models, "policy")
        replica_size = workload.replica_size or hardware.replica_size(policy)
        num_sampling = workload.sampling_gpus or max(1, stage.num_gpus - (workload.read_tokens > 0))
        if num_sampling > stage.num_gpus:
            raise ValueError(
                f"the command line samples on {num_sampling} GPUs, and the stage holds {stage.num_gpus}"
            )
        flops += (
            2
            * policy.parameters
            * (
                workload.sampled.prompt_tokens
                - workload.sampled.reused_tokens
                + workload.sampled.sampled_tokens
            )
        )
        sampling_s = hardware.sampling_s(workload.sampled, policy, num_sampling, replica_size)
        needs.append(("the policy's weights", policy.sampling_bytes, min(replica_size, num_sampling)))
    if workload.read_tokens:
        prm = _model(models, "prm")
        flops += 2 * prm.parameters * workload.read_tokens
        reading_s = hardware.computing_s(2 * prm.parameters * workload.read_tokens, 1)
        needs.append(("the PRM's weights", prm_weight_bytes * prm.parameters, 1))
    if workload.training is not None:
        model = _model(models, workload.trains)
        num_training = stage.num_gpus if stage.launcher and workload.trains == "prm" else 1
        is_lora = workload.training.lora_rank > 0
        training_flops = (4 if is_lora else 6) * model.parameters * workload.trained_tokens
        flops += training_flops
        training_s = hardware.computing_s(training_flops, num_training)
        num_bytes = WEIGHT_BYTES[workload.training.dtype] if is_lora else BYTES_TRAINING
        needs.append(
            (f"training at {num_bytes} bytes per weight", num_bytes * model.parameters, num_training)
        )
    return StageEstimate(
        name=stage.name,
        num_gpus=stage.num_gpus,
        sampled=workload.sampled,
        is_measured=workload.is_measured,
        read_tokens=workload.read_tokens,
        trained_tokens=workload.trained_tokens,
        flops=flops,
        sampling_hours=sampling_s / SECONDS_PER_HOUR,
        reading_hours=reading_s / SECONDS_PER_HOUR,
        training_hours=training_s / SECONDS_PER_HOUR,
        price_per_gpu_hour=hardware.price_per_gpu_hour,
        misfits=tuple(
            f"{what}: {num_bytes / 1e9:,.0f} GB, and {num_gpus} x {hardware.gpu} have room for "
            f"{num_gpus * hardware.room / 1e9:,.0f} GB"
            for what, num_bytes, num_gpus in needs
            if num_bytes >= num_gpus * hardware.room
        ),
    )


def _model(models: Mapping[str, ModelSize], name: str) -> ModelSize:
    if name not in models:
        raise ValueError(
            f"the recipe says nothing about models.{name}; there are {', '.join(models) or 'none'}"
        )
    return models[name]
