"""How long a model takes on GPUs, and whether it fits.

Three bounds; the time of a stage is that of the slower of the first two:

    computing   2 N FLOPs per token that is read, 6 N per token that is trained (4 N with LoRA, which needs
                no gradients of frozen weights), at `compute_utilisation` of the peak; attention itself is
                left out (under 3 % for a 7B model at 1,000 tokens)
    reading     a decoding step reads all weights and every sequence's keys and values once, at
                `bandwidth_utilisation`
    memory      models that do not fit are reported; the times are not changed

Invariant: pure arithmetic over named fields. The utilisations, prices and batch sizes are assumptions until
they are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Literal

from forkpoint.checks import check_above, check_at_least, check_choice, check_within
from forkpoint.records import Cost

GPUKind = Literal["A100", "L40S", "H100", "H200", "B200"]
MEMORY_SHARE = 0.9
"""The share of a GPU's memory for weights, optimiser states and caches; the rest is for activations and the
engine."""
BYTES_SAMPLING = 2
"""Bytes per weight of a policy that samples, and per key and value (bfloat16)."""
BYTES_TRAINING = 16
"""Bytes per trained weight: float32 weights, gradients and Adam's two moments; bfloat16 weights and gradients
with float32 masters need as much."""


@dataclass(frozen=True, slots=True)
class GPU:
    """One kind of GPU, from its vendor's data sheet."""

    flops: float
    """Peak FLOP/s in bfloat16, dense (data sheets print the double, with sparsity)."""
    bandwidth: float
    """Bandwidth of its memory in bytes per second."""
    memory: float
    """Memory in bytes."""


GPUS: dict[GPUKind, GPU] = {
    "A100": GPU(312e12, 2.039e12, 80e9),  # NVIDIA A100 80GB SXM data sheet
    "L40S": GPU(362.05e12, 0.864e12, 48e9),  # NVIDIA L40S data sheet
    "H100": GPU(989.5e12, 3.35e12, 80e9),  # NVIDIA H100 SXM data sheet: 1,979 with sparsity
    "H200": GPU(989.5e12, 4.8e12, 141e9),  # NVIDIA H200 SXM data sheet: 1,979 with sparsity
    "B200": GPU(2250e12, 8e12, 180e9),  # NVIDIA HGX and DGX B200 data sheets, an eighth of the whole
}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The size of a model, as its config.json and its card give it."""

    parameters: float
    num_layers: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if not min(self.parameters, self.num_layers, self.num_kv_heads, self.head_dim) > 0:
            raise ValueError(
                f"parameters, num_layers, num_kv_heads and head_dim must be above 0; {self} was given"
            )

    @property
    def sampling_bytes(self) -> float:
        """Bytes of the model's weights while it samples."""
        return BYTES_SAMPLING * self.parameters

    @property
    def cache_bytes_per_token(self) -> float:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * BYTES_SAMPLING


@dataclass(frozen=True)
class HardwareConfig:
    """The GPUs, and how well they are used.

    Utilisations, price and batch size are assumptions; set them to what you measured or pay.
    """

    gpu: GPUKind | None = None
    """Kind of GPU: A100 (80 GB), L40S, H100, H200 or B200; without it, the one that the recipe names."""
    price_per_gpu_hour: float = 2.5
    """Price of a GPU for one hour, in any currency; an assumption, not an offer."""
    compute_utilisation: float = 0.4
    """Share of the peak FLOP/s that reading and training reach (model-FLOP utilisation); an assumption."""
    bandwidth_utilisation: float = 0.5
    """Share of the memory's bandwidth that decoding reaches; an assumption."""
    max_sequences: int = 256
    """Largest number of sequences that are decoded side by side, if they fit into memory; an assumption about
    the engine."""
    tokens_per_second: float | None = None
    """Sampled tokens per second and GPU, if you have measured them; replaces the bounds of decoding and of
    reading prompts."""

    def __post_init__(self) -> None:
        if self.gpu is not None:
            check_choice("GPU", self.gpu, GPUS)
        check_at_least(1, max_sequences=self.max_sequences)
        check_within(
            "(0, 1]",
            compute_utilisation=self.compute_utilisation,
            bandwidth_utilisation=self.bandwidth_utilisation,
        )
        check_at_least(0, price_per_gpu_hour=self.price_per_gpu_hour)
        if self.tokens_per_second is not None:
            check_above(0, tokens_per_second=self.tokens_per_second)

    @property
    def room(self) -> float:
        """Bytes of one GPU's memory that models may take."""
        return self._facts.memory * MEMORY_SHARE

    def replica_size(self, model: ModelSize) -> int:
        """GPUs that one copy of a sampling model needs: the least power of two with enough room."""
        num_gpus = 1
        while num_gpus * self.room <= model.sampling_bytes:
            num_gpus *= 2
        return num_gpus

    def batch(self, model: ModelSize, replica_size: int, tokens_per_sequence: float) -> int:
        """The number of sequences of `tokens_per_sequence` tokens that a replica decodes side by side.

        It is limited by memory and `max_sequences`, and at least 1.
        """
        free = replica_size * self.room - model.sampling_bytes
        return max(
            1, min(self.max_sequences, floor(free / (tokens_per_sequence * model.cache_bytes_per_token)))
        )

    def decoding_rate(
        self, model: ModelSize, replica_size: int, context_tokens: float, new_tokens: float
    ) -> float:
        """Tokens per second of one replica, for requests that add `new_tokens` to `context_tokens`.

        A step gives each of B sequences a token. It takes the longer of 2 N B / FLOP/s and
        (weights + B (context + new / 2) cache bytes per token) / bandwidth.
        """
        batch = self.batch(model, replica_size, context_tokens + new_tokens)
        num_bytes = (
            model.sampling_bytes + batch * (context_tokens + new_tokens / 2) * model.cache_bytes_per_token
        )
        reading_s = num_bytes / (replica_size * self._facts.bandwidth * self.bandwidth_utilisation)
        return batch / max(self.computing_s(2 * model.parameters * batch, replica_size), reading_s)

    def sampling_s(self, cost: Cost, model: ModelSize, num_gpus: int, replica_size: int) -> float:
        """Seconds of sampling on `num_gpus` by replicas of `replica_size` GPUs. Reused tokens are free."""
        if self.tokens_per_second is not None:
            return cost.sampled_tokens / (self.tokens_per_second * num_gpus)
        num_replicas = max(1, num_gpus // replica_size)
        rate = self.decoding_rate(
            model, replica_size, cost.prompt_tokens / cost.requests, cost.sampled_tokens / cost.requests
        )
        reading_s = self.computing_s(
            2 * model.parameters * (cost.prompt_tokens - cost.reused_tokens), replica_size
        )
        return (cost.sampled_tokens / rate + reading_s) / num_replicas

    def computing_s(self, flops: float, num_gpus: int) -> float:
        """Seconds that `flops` take on `num_gpus` GPUs."""
        return flops / (self._facts.flops * self.compute_utilisation * num_gpus)

    @property
    def _facts(self) -> GPU:
        if self.gpu is None:
            raise ValueError(f"which GPU? choose from {', '.join(GPUS)}")
        return GPUS[self.gpu]
