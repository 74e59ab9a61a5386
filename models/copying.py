"""Two heads that copy, from the start: learning to copy would take most of the training.

Where `A B … A` was written, the next token is likely `B`. A transformer does that with two heads,
one after the other: the first notes at each token which token stood before it, the second looks for
the place that notes the present token, and predicts what stands there. Tool calls consist of it.
"""

import torch

from models.network import Attention, Network

NEAR, FAR = slice(0, 12), slice(16, 32)  # pairs that turn fast tell neighbours; slow ones meanings
CONSTANT = 1.0  # what all embeddings have in common: a head can see it whatever the token
NOTICE, MATCH = 0.8, 3.0  # how sharply the first head looks one back, and the second for the match
NOTE, PREDICT = 0.4, 2.0  # how loudly they say what they found
SPOKEN = 0.2  # how large output weights are beside the embeddings


def prepare(network: Network, generator: torch.Generator) -> None:
    """Write the two heads into a network that is otherwise random."""
    width, size = network.shape.width, network.shape.head_width
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    constant, present, noted = (
        basis[:, 0],
        basis[:, 1 : 1 + size],
        basis[:, 1 + size : 1 + 2 * size],
    )
    with torch.no_grad():
        _share(network.embed_tokens.weight, constant, noted)
        # What a place says of a token must lead to the prediction of that token.
        network.lm_head.weight.copy_(network.embed_tokens.weight * SPOKEN)
        network.lm_head.weight -= torch.outer(network.lm_head.weight @ constant, constant)
        first, second = network.layers[0].self_attn, network.layers[1].self_attn
        _look_back(first, constant, network.shape.rope_theta)
        _look_for(second, present, noted)
        for head, target, gain in ((first, noted, NOTE), (second, present, PREDICT)):
            head.v_proj.weight.copy_(present.T)
            head.o_proj.weight[:, :size] = gain * target


def _share(embeddings: torch.Tensor, constant: torch.Tensor, noted: torch.Tensor) -> None:
    """Give all embeddings a part in common, and leave the place for notes empty."""
    length = embeddings.norm(dim=1).mean()
    embeddings -= (embeddings @ noted) @ noted.T
    embeddings -= torch.outer(embeddings @ constant, constant)
    embeddings += CONSTANT * length * constant


def _look_back(head: Attention, constant: torch.Tensor, theta: float) -> None:
    """Score each place by how near it is to the one before, whatever stands there."""
    half = head.shape.head_width // 2
    angles = theta ** -(torch.arange(half)[NEAR] / half)
    for weight, cos, sin in (
        (head.q_proj.weight, torch.ones_like(angles), torch.zeros_like(angles)),
        (head.k_proj.weight, angles.cos(), angles.sin()),  # a step ahead of its place
    ):
        weight[:half][NEAR] = NOTICE * torch.outer(cos, constant)
        weight[half : 2 * half][NEAR] = NOTICE * torch.outer(sin, constant)


def _look_for(head: Attention, present: torch.Tensor, noted: torch.Tensor) -> None:
    """Score each place by how much its note is like the present token."""
    half = head.shape.head_width // 2
    for weight, source in ((head.q_proj.weight, present), (head.k_proj.weight, noted)):
        weight[:half][FAR] = MATCH * source.T[:half][FAR]
        weight[half : 2 * half][FAR] = MATCH * source.T[half:][FAR]
