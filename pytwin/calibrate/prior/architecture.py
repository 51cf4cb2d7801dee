"""What a model is made of, in numbers: weights, KV cache, FLOPs, and where LoRA attaches.

Follows vLLM 0.8.5's modules (fused qkv and gate_up projections, vocabulary padded to 64), because
allocations and kernels go by these.
"""

from __future__ import annotations

from dataclasses import dataclass

# vLLM 0.8.5 model_executor/layers/vocab_parallel_embedding.py DEFAULT_VOCAB_PADDING_SIZE
_VOCAB_PADDING = 64


@dataclass(frozen=True)
class LoraGroup:
    """A linear module that takes LoRA: one shrink and one expand kernel per layer and step.

    inputs: width that it reads. outputs: width of each slice that it writes (q, k, v are three).
    """

    name: str
    inputs: int
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """Shapes of a decoder-only transformer, one GPU, 16-bit weights.

    name: of the class in config.json. intermediate: width of the MLP, or of one expert.
    qkv_bias, output_bias, mlp_bias: whether these linear layers add a bias. norms: vectors of
    hidden width per layer. qk_norm: queries and keys have a norm of head width. experts: 0 for a
    dense MLP, of which experts_per_token see a token. rotary_positions, rotary_caches: the
    precomputed table of positions and how many of them. fused_lora: LoRA sees qkv and gate_up as
    one slice each (Phi-3). lora_embeddings: vLLM also adds LoRA to embedding and lm_head.
    sliding_window: 0 where every layer attends to everything.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_model_len: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norms: int = 2
    qk_norm: bool = False
    experts: int = 0
    experts_per_token: int = 0
    rotary_positions: int = 0
    rotary_caches: int = 1
    rotary_dim: int = 0
    fused_lora: bool = False
    lora_embeddings: bool = False
    sliding_window: int = 0
    dtype_bytes: int = 2

    @property
    def q_width(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads, or of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values per token, all layers."""
        return self.layers * 2 * self.kv_width * self.dtype_bytes

    # -- weights ----------------------------------------------------------------------------

    def layer_tensors(self) -> list[int]:
        """Elements of each weight tensor of one layer, without experts."""
        qkv = self.q_width + 2 * self.kv_width
        tensors = [qkv * self.hidden, self.q_width * self.hidden]
        tensors += [qkv] * self.qkv_bias + [self.hidden] * self.output_bias
        if self.experts:
            tensors.append(self.experts * self.hidden)
        else:
            tensors += [2 * self.intermediate * self.hidden, self.intermediate * self.hidden]
            if self.mlp_bias:
                tensors += [2 * self.intermediate, self.hidden]
        tensors += [self.hidden] * self.norms + [self.head_dim] * (2 * self.qk_norm)
        return tensors

    def expert_tensors(self) -> list[int]:
        """Elements of the stacked expert tensors of one layer; none for a dense MLP."""
        size = self.experts * self.hidden * self.intermediate
        return [2 * size, size] if self.experts else []

    def tensors(self) -> list[int]:
        """Elements of every tensor that loading the model leaves on the GPU."""
        padded = -(-self.vocab // _VOCAB_PADDING) * _VOCAB_PADDING
        embeddings = [padded * self.hidden] * (1 if self.tied else 2)
        rotary = [self.rotary_positions * self.rotary_dim] * self.rotary_caches
        layers = (self.layer_tensors() + self.expert_tensors()) * self.layers
        return embeddings + layers + [self.hidden] + rotary

    @property
    def parameters(self) -> int:
        """Parameters as a checkpoint counts them (no padding, tied embeddings once)."""
        layers = sum(self.layer_tensors()) + sum(self.expert_tensors())
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layers + self.hidden

    @property
    def dense_bytes_read(self) -> int:
        """Weights that every step reads once: all layers and lm_head, without experts."""
        layers = self.layers * sum(self.layer_tensors())
        return (layers + self.vocab * self.hidden) * self.dtype_bytes

    @property
    def expert_bytes(self) -> int:
        """Weights of all experts of all layers."""
        return self.layers * sum(self.expert_tensors()) * self.dtype_bytes

    @property
    def flops_per_token(self) -> float:
        """Multiplications and additions of all layers for one token."""
        active = sum(self.layer_tensors())
        if self.experts:
            active += sum(self.expert_tensors()) * self.experts_per_token // self.experts
        return 2.0 * self.layers * active

    @property
    def flops_per_sequence(self) -> float:
        """Those of lm_head, for one sampled token."""
        return 2.0 * self.vocab * self.hidden

    # -- LoRA -------------------------------------------------------------------------------

    @property
    def lora_groups(self) -> tuple[LoraGroup, ...]:
        """The linear modules of one layer to which vLLM adds LoRA."""
        qkv = (self.q_width, self.kv_width, self.kv_width)
        gate_up = (self.intermediate, self.intermediate)
        if self.fused_lora:
            qkv, gate_up = (sum(qkv),), (sum(gate_up),)  # type: ignore[assignment]
        attention = (
            LoraGroup("qkv_proj", self.hidden, qkv),
            LoraGroup("o_proj", self.q_width, (self.hidden,)),
        )
        if self.experts:
            return (*attention, LoraGroup("gate", self.hidden, (self.experts,)))
        return (
            *attention,
            LoraGroup("gate_up_proj", self.hidden, gate_up),
            LoraGroup("down_proj", self.intermediate, (self.hidden,)),
        )

    @property
    def lora_slices(self) -> int:
        """LoRA pairs (A, B) per layer."""
        return sum(len(group.outputs) for group in self.lora_groups)

    @property
    def lora_bytes_per_rank(self) -> int:
        """Weights of one adapter per unit of rank, layers only."""
        widths = sum(
            group.inputs * len(group.outputs) + sum(group.outputs) for group in self.lora_groups
        )
        return self.layers * widths * self.dtype_bytes

    @property
    def lora_activation_bytes(self) -> int:
        """Bytes that LoRA kernels read and write per token, all layers: inputs, outputs twice."""
        widths = sum(
            group.inputs * len(group.outputs) + 2 * sum(group.outputs) for group in self.lora_groups
        )
        return self.layers * widths * self.dtype_bytes
