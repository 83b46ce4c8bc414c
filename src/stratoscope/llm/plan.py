"""What is asked: how the model is split (ParallelPlan), what runs (workloads), and what runs it (Engine)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from stratoscope.llm.base import LlmError, Value, validated

Recompute = Literal["none", "selective", "full"]
# How a plan is written: the name before a number, and the field that it sets.
PLAN_PARTS = {name: name for name in ("tp", "cp", "pp", "vpp", "ep", "dp", "zero")} | {"hsdp": "hsdp_replicas"}
PLAN_HINT = "for example tp8,pp4,dp2,zero1,sp,full"
LONGEST_PART = 12


class ParallelPlan(Value):
    """How a model is split over devices. `dp` counts data-parallel replicas; expert parallelism lies inside them.

    `zero`: 1 shards the optimizer over `dp`, 2 also gradients, 3 also weights (FSDP). `hsdp_replicas` > 1 shards over
    `dp / hsdp_replicas` devices and replicates over the rest. `placement` names the axes from the innermost (neighbours
    in one scale-up domain) outwards.
    """

    tp: int = Field(default=1, ge=1)
    cp: int = Field(default=1, ge=1)
    pp: int = Field(default=1, ge=1)
    vpp: int = Field(default=1, ge=1)
    ep: int = Field(default=1, ge=1)
    dp: int = Field(default=1, ge=1)
    zero: Literal[0, 1, 2, 3] = 0
    hsdp_replicas: int = Field(default=1, ge=1)
    sequence_parallel: bool = False
    recompute: Recompute = "none"
    offload: Literal["none", "optimizer"] = "none"
    placement: tuple[Literal["tp", "cp", "dp", "pp"], ...] = ("tp", "cp", "dp", "pp")

    @property
    def world(self) -> int:
        """Devices in all."""
        return self.tp * self.cp * self.pp * self.dp

    def stride(self, axis: Literal["tp", "cp", "dp", "pp"]) -> int:
        """How far apart in the placement neighbours along `axis` lie: the product of the axes inside it."""
        sizes = {"tp": self.tp, "cp": self.cp, "dp": self.dp, "pp": self.pp}
        return math.prod(sizes[name] for name in self.placement[: self.placement.index(axis)])

    @model_validator(mode="after")
    def _consistent(self) -> ParallelPlan:
        if sorted(self.placement) != ["cp", "dp", "pp", "tp"]:
            raise LlmError("placement names each of tp, cp, dp, pp once", hint="from neighbours outwards: tp-cp-dp-pp")
        if self.dp % self.hsdp_replicas:
            raise LlmError(f"{self.hsdp_replicas} HSDP replicas do not divide dp={self.dp}", hint=PLAN_HINT)
        if (self.dp * self.cp * self.tp) % self.ep:
            raise LlmError(f"ep={self.ep} does not divide dp*cp*tp={self.dp * self.cp * self.tp}", hint=PLAN_HINT)
        if self.vpp > 1 and self.pp == 1:
            raise LlmError("interleaving (vpp) needs pipeline stages (pp)", hint="for example pp4,vpp2")
        return self

    @classmethod
    def parse(cls, text: str) -> ParallelPlan:
        """A plan from `tp8,pp4,dp2,zero1,sp,full`; raises LlmError naming the part that it does not know.

        Further parts: cp, ep, vpp, hsdp (replicas), offload (the optimizer), order=tp-cp-pp-dp (placement).
        """
        fields: dict[str, object] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            if part == "sp":
                fields["sequence_parallel"] = True
            elif part == "offload":
                fields["offload"] = "optimizer"
            elif part.startswith("order="):
                fields["placement"] = tuple(part.removeprefix("order=").split("-"))
            elif part in ("none", "selective", "full"):
                fields["recompute"] = part
            else:
                name = part.rstrip("0123456789")
                if name not in PLAN_PARTS or name == part or len(part) > LONGEST_PART:
                    raise LlmError(f"plan {text!r}: {part[:40]!r} is not a part of a plan", hint=PLAN_HINT)
                fields[PLAN_PARTS[name]] = int(part[len(name) :])
        plan: ParallelPlan = validated(cls, fields, f"plan {text!r}")
        return plan


CACHE_FORMATS = ("bf16", "fp16", "fp32", "fp8", "int8")  # that attention kernels read


class Precision(Value):
    """The number formats of a run. `compute` is what the matrix units multiply."""

    weights: str = "bf16"
    activations: str = "bf16"
    compute: str = "bf16"
    kv: str = "bf16"
    gradients: str = "fp32"

    @classmethod
    def preset(cls, name: str) -> Precision:
        """bf16, fp16, fp32, fp8 (weights and activations), int8 (W8A8), int8wo, int4wo (weights alone), fp4."""
        presets = {
            "bf16": cls(),
            "fp16": cls(weights="fp16", activations="fp16", compute="fp16", kv="fp16"),
            "fp32": cls(weights="fp32", activations="fp32", compute="fp32", kv="fp32"),
            "fp8": cls(weights="fp8", compute="fp8", kv="fp8"),
            "int8": cls(weights="int8", compute="int8"),
            "int8wo": cls(weights="int8"),
            "int4wo": cls(weights="int4"),
            "fp4": cls(weights="fp4", compute="fp4", kv="fp8"),
        }
        if name not in presets:
            raise LlmError(f"no precision {name!r}", hint=f"known: {', '.join(presets)}")
        return presets[name]


class Lora(Value):
    """Low-rank adapters on the attention and feed-forward matrices (arXiv 2106.09685)."""

    rank: int = Field(ge=1)
    targets: tuple[str, ...] = ("q", "k", "v", "o")


class TrainStep(Value):
    """One optimizer step: `global_batch` sequences of `seq` tokens in microbatches of `micro_batch`."""

    global_batch: int = Field(ge=1)
    micro_batch: int = Field(default=1, ge=1)
    seq: int = Field(ge=1)
    lora: Lora | None = None


class Generation(Value):
    """One static batch: a prompt of `prompt` tokens (of which `cached` are in a prefix cache) and `output` tokens."""

    batch: int = Field(ge=1)
    prompt: int = Field(ge=1)
    output: int = Field(default=1, ge=1)
    cached: int = Field(default=0, ge=0)
    sampling: Literal["greedy", "top_p"] = "greedy"

    @model_validator(mode="after")
    def _something_to_prefill(self) -> Generation:
        if self.cached >= self.prompt:
            raise LlmError("at least one prompt token is computed: cached < prompt", hint="lower cached")
        return self


class Engine(Value):
    """The software that runs the model: what it fuses, how it launches, what it reserves. Sources stand in ENGINES."""

    name: str
    cuda_graphs: bool = False
    host_launch_s: float = 5e-6  # CPU time of one kernel launch
    step_host_s: float = 0.0  # fixed work between decode steps: sampling bookkeeping, scheduler
    layer_host_s: float = 0.0  # framework time per layer that kernels do not hide
    flash_attention: bool = True
    eager: bool = False  # RMS norms, rotations and gated activations as chains of elementwise kernels
    flash_version: int = 3  # 2: kernels that do not use what Hopper and later devices added
    fused_residual: bool = True
    transposes_qkv: bool = False  # prefill adds biases and transposes heads in passes of their own
    custom_allreduce: bool = False
    copies_cache: bool = False  # each step writes the whole cache anew with one token more
    copy_cost: float = 1.0  # of that copy, over a stream of its bytes: fresh memory is faulted in page by page
    # how 16-bit activations become 8-bit ones: by scales found at run time (kernels as in the fp8 tables), by one pass
    # with known scales, or inside the kernel before
    quantization: Literal["dynamic", "static", "fused"] = "static"
    grouped_decode: bool = True  # decode attention reads a shared key-value head once for all its query heads
    overlap_dp: bool = True  # gradient communication behind the backward pass
    overlap_tp: bool = False
    gathers_masters: bool = False  # sharded weights are gathered in 32 bits and cast after
    dropout: bool = False  # trains with dropout: masks written, kept and read again
    unfused_buffers: bool = False  # keeps scores, mask, a second fp32 copy of the logits, and the head beside its twin
    workspace_widths: float = 18.0  # 16-bit buffers of a forward pass per token, in hidden widths
    reserve_bytes: float = 0.55 * 2**30  # context, libraries, workspaces
    communicator_bytes: float = 0.38 * 2**30  # NCCL buffers at 4-8 ranks
    trains: bool = True  # whether it runs a backward pass at all
    kv_preallocated_fraction: float | None = None
    stage_tokens: int | None = None  # with pipeline stages: a batch is halved until a part has at most so many tokens
    prefill_token_budget: int | None = None  # most tokens of one pass: longer prefills run in chunks
    source: str = ""


FASTERTRANSFORMER_RESERVE = 2.73 * 2**30  # context with all kernels loaded, libraries, pools: as its guide was measured

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(name="generic", source="FlashAttention-3 class kernels, fused residuals, NCCL, no CUDA graphs"),
        Engine(
            name="megatron-lm",
            flash_attention=False,
            fused_residual=True,
            overlap_dp=False,
            dropout=True,
            source="arXiv 2104.04473, 2205.05198: unfused attention, gradients all-reduced after the last microbatch",
        ),
        Engine(
            name="pytorch-eager",
            fused_residual=False,
            copies_cache=True,
            eager=True,
            source="transformers run eagerly (a dynamic cache is concatenated); its time per layer and pass come "
            "from `llm calibrate`",
        ),
        Engine(
            name="megatron-core",
            quantization="fused",
            source="NVIDIA/Megatron-LM d98e8a6: flash attention, overlapped gradients",
        ),
        Engine(
            name="fsdp",
            flash_version=2,
            eager=True,
            host_launch_s=6e-6,
            source="PyTorch FSDP: sharded weights gathered behind the layer before",
        ),
        Engine(
            name="llm-foundry",
            flash_version=1,
            eager=True,
            host_launch_s=6e-6,
            gathers_masters=True,
            source="mosaicml/llm-foundry 2023 under Composer's mixed precision DEFAULT (parameters gathered in fp32): "
            "scripts/train/benchmarking/submit_benchmarks.py runs attn_impl triton, a FlashAttention of version 1, "
            "on PyTorch 1.13",
        ),
        Engine(
            name="llm-foundry-pure",
            flash_version=1,
            eager=True,
            host_launch_s=6e-6,
            source="llm-foundry with mixed precision PURE: parameters gathered in 16 bits",
        ),
        Engine(
            name="fastertransformer",
            trains=False,
            step_host_s=80e-6,
            flash_attention=False,
            grouped_decode=False,
            transposes_qkv=True,
            unfused_buffers=True,
            stage_tokens=2048,  # getLocalBatchSize of nccl_utils.cc at 0311bc6; later versions 1024
            # context decoder: input, output, normed input, attention output, layer output, normed attention output;
            # context attention: q, k, v, their transposes, weighted sum and its transpose
            workspace_widths=14.0,
            reserve_bytes=FASTERTRANSFORMER_RESERVE,
            source="NVIDIA/FasterTransformer df4a753: stream launches, NCCL all-reduce, a host check per token; "
            "buffers counted in ParallelGpt.cc, ParallelGptContextDecoder.cc and GptContextAttentionLayer.cc; reserve: "
            "the median of what they leave of its own measured memory (suite C13-mem)",
        ),
        Engine(
            name="tensorrt-llm-0.6",
            trains=False,
            custom_allreduce=True,
            grouped_decode=False,
            step_host_s=80e-6,
            source="TensorRT-LLM 0.6 docs: fused attention plugins, one-shot all-reduce; decode attention without "
            "grouping (grouped kernels, XQA, came with 0.7)",
        ),
        Engine(
            name="tensorrt-llm",
            quantization="fused",
            trains=False,
            cuda_graphs=True,
            custom_allreduce=True,
            step_host_s=80e-6,
            kv_preallocated_fraction=0.9,
            prefill_token_budget=8192,
            source="TensorRT-LLM 1.x docs: grouped attention kernels, one-shot all-reduce, CUDA graphs",
        ),
        Engine(
            name="vllm",
            trains=False,
            cuda_graphs=True,
            custom_allreduce=True,
            step_host_s=1.5e-3,
            kv_preallocated_fraction=0.9,
            prefill_token_budget=8192,
            source="vLLM 0.x: CUDA graphs for decode, Python scheduler between steps",
        ),
    )
}

ENGINE_ALIASES = {"composer": "llm-foundry", "mosaicml": "llm-foundry", "megatron-bridge": "megatron-core"}


def find_engine(name: str) -> Engine:
    """The engine of that name; raises LlmError with the known names."""
    engine = ENGINES.get(ENGINE_ALIASES.get(name.lower(), name.lower()))
    if engine is None:
        raise LlmError(f"no engine {name!r}", hint=f"known: {', '.join(ENGINES)}")
    return engine
