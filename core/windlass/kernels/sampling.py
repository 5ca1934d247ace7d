"""Choosing tokens: the torch reference of every sampling op, and the random numbers' definition.

The random number of a token depends on the request's seed and the token's position and on
nothing else, so a request gives the same tokens in any batch, after a retry, on any backend.
"""

from __future__ import annotations

import torch

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def philox_uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Uniform float32 `[R]` in [0, 1) from int64 `seed` and `position`, both `[R]`.

    Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with
    the seed as key and (position, 0) as counter; the upper 24 bits of the first word.
    """
    c0, c1 = position & _MASK, (position >> 32) & _MASK
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        high_0, high_1 = (product_0 >> 32) & _MASK, (product_1 >> 32) & _MASK
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, product_1 & _MASK, high_0 ^ c3 ^ k1, product_0 & _MASK
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return (c0 >> 8).to(torch.float32) * 2.0**-24


def penalties(
    logits: torch.Tensor,
    prompt_mask: torch.Tensor,
    output_counts: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> torch.Tensor:
    """Logits `[R, V]` with the penalties of each request applied.

    `prompt_mask` is bool `[R, V]` (token stands in the prompt), `output_counts` int32 `[R, V]`,
    the three penalties float32 `[R]`. Repetition divides positive and multiplies negative logits
    of tokens seen anywhere (Keskar et al., CTRL, 2019); frequency and presence subtract for
    tokens of the output, as the OpenAI API defines them.
    """
    seen_in_output = output_counts > 0
    factor = torch.where(prompt_mask | seen_in_output, repetition[:, None], 1.0)
    logits = torch.where(logits > 0, logits / factor, logits * factor)
    return logits - frequency[:, None] * output_counts - presence[:, None] * seen_in_output


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each row of float32 logits `[R, V]`, and the first token that has it, int64.

    Both `[R]`; a row that holds NaN has NaN as its largest.
    """
    largest, tokens = logits.max(dim=-1)
    return largest, tokens


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
    seed: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """One token per row, int64 `[R]`, from float32 logits `[R, V]`.

    `temperature`, `top_p`, `min_p` are float32 `[R]`, `top_k` int32 `[R]` (0: off), `seed` and
    `position` int64 `[R]`; None where no row uses it. Temperature 0 takes the largest logit.
    Otherwise: divide by temperature; keep p >= min_p * max p; keep the top_k largest; of what is
    left keep the smallest set of largest tokens whose mass reaches top_p; tokens that tie with
    the last one kept are kept. With u = `philox_uniform(seed, position)`, the token is the
    smallest id at which the cumulative kept mass, in order of ids, exceeds u times the whole.
    """
    greedy = temperature <= 0
    scaled = logits / torch.where(greedy, 1.0, temperature)[:, None]
    probs = torch.softmax(scaled, dim=-1)
    if min_p is not None:
        probs = probs.where(probs >= min_p[:, None] * probs.amax(-1, keepdim=True), 0.0)
    if top_k is not None or top_p is not None:
        probs = probs.where(probs >= _threshold(probs, top_k, top_p), 0.0)
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    target = philox_uniform(seed, position).to(torch.float64)[:, None] * total
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    token = torch.minimum(token, torch.searchsorted(cumulative, total).squeeze(-1))
    return torch.where(greedy, logits.argmax(-1), token)


def _threshold(
    probs: torch.Tensor, top_k: torch.Tensor | None, top_p: torch.Tensor | None
) -> torch.Tensor:
    """The smallest probability `[R, 1]` that top_k and top_p keep."""
    ordered = probs.sort(dim=-1, descending=True).values
    vocab_size = probs.shape[-1]
    smallest = ordered.new_zeros((len(ordered), 1))
    if top_k is not None:
        k = torch.where(top_k > 0, top_k, vocab_size).clamp(max=vocab_size).to(torch.int64)
        smallest = ordered.gather(-1, k[:, None] - 1)
        ordered = ordered.where(ordered >= smallest, 0.0)
    if top_p is not None:
        before = ordered.cumsum(-1) - ordered
        kept = before < top_p[:, None] * ordered.sum(-1, keepdim=True)
        last = kept.sum(-1, keepdim=True).clamp(min=1) - 1
        smallest = torch.maximum(smallest, ordered.gather(-1, last))
    return smallest.clamp(min=torch.finfo(torch.float32).tiny)


def token_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of chosen and most probable tokens.

    From float32 logits `[R, V]` and int64 `tokens` `[R]`: the chosen tokens' log-probability
    `[R]` and rank `[R]` (1: the largest), then ids and log-probabilities `[R, num_top]`.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(-1, tokens[:, None])
    rank = (logprobs > chosen).sum(-1) + 1
    top = logprobs.topk(num_top, dim=-1)
    return chosen.squeeze(-1), rank, top.indices, top.values


def apply_token_mask(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Float32 logits `[S, V]`, minus infinity where a token is not allowed.

    `mask` is int32 `[S, ceil(V / 32)]`: bit i of word w allows the token 32 w + i.
    """
    bits = torch.arange(32, dtype=torch.int32, device=mask.device)
    allowed = ((mask[:, :, None] >> bits) & 1).flatten(1)[:, : logits.shape[1]]
    return logits.masked_fill(allowed == 0, -torch.inf)
