"""The network: a small Llama in plain torch, as Hugging Face computes it."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """How large the network is."""

    vocabulary: int = 2048
    context: int = 2048
    width: int = 192
    layers: int = 6
    heads: int = 3
    kv_heads: int = 1
    hidden: int = 448
    rope_theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Numbers of one head."""
        return self.width // self.heads


class Attention(nn.Module):
    """Causal attention with rotary positions; several heads share keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], hidden: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend to what came before, but for what is hidden: -inf in a mask."""
        batch, length, _ = x.shape
        size, groups = self.shape.head_width, self.shape.heads // self.shape.kv_heads
        q = self.q_proj(x).view(batch, length, -1, size).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, -1, size).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, -1, size).transpose(1, 2)
        q, k = rotate(q, rope), rotate(k, rope)
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        if hidden is not None:  # written out, this is twice as fast on a CPU as torch's own
            scores = (q * size**-0.5) @ k.transpose(-1, -2)
            out = functional.softmax(scores + hidden, dim=-1).to(v.dtype) @ v
        else:
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class Feedforward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute each position by itself."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then the feedforward part, each on a normed input and added."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, shape.epsilon)
        self.mlp = Feedforward(shape)

    def forward(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], hidden: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute one layer."""
        x = x + self.self_attn(self.input_layernorm(x), rope, hidden)
        return x + self.mlp(self.post_attention_layernorm(x))


class Network(nn.Module):
    """Token ids in, hidden states out; `logits` makes predictions of them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        cos, sin = rope_table(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=_spread(name, shape))

    def forward(self, ids: torch.Tensor, parts: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the hidden states of all positions.

        `parts` numbers the conversations of a row: none of them sees another.
        """
        length = ids.shape[1]
        rope = (self.cos[:length], self.sin[:length])
        hidden = None if parts is None else hide(parts)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, rope, hidden)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Predict the next token."""
        return self.lm_head(hidden)


def _spread(name: str, shape: Shape) -> float:
    if name.startswith("embed"):
        return 0.1
    if name.endswith(("o_proj.weight", "down_proj.weight")):  # each adds to the sum of all layers
        return 0.02 / (2 * shape.layers) ** 0.5
    return 0.02


def hide(parts: torch.Tensor) -> torch.Tensor:
    """A mask that hides what comes later and what belongs to another part."""
    length = parts.shape[1]
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
    others = parts[:, :, None] != parts[:, None, :]
    mask = torch.zeros(parts.shape[0], 1, length, length, dtype=torch.bfloat16)
    return mask.masked_fill((ahead | others)[:, None], -torch.inf)


def rope_table(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary positions."""
    steps = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    angles = torch.outer(torch.arange(shape.context).float(), shape.rope_theta**-steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn pairs (first half, second half) by the position's angles."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
