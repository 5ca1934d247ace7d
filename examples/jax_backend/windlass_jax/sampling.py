"""From logits to tokens, as `windlass.kernels.sampling` defines it: here in JAX."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from windlass_jax.model import logits_of

MAX_TOP = 20
"""Alternatives that are computed where any are wanted: the most that a request may ask for."""

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


class Wishes(NamedTuple):
    """What the S rows that sample ask for, padded to a bucket.

    `rows` int32 `[S]` are their places in the request table. `temperature` (0: greedy), `top_p`,
    `min_p`, `repetition`, `frequency`, `presence` are float32 `[S]`, `top_k` int32 `[S]` (0: off),
    `seed` uint32 `[S, 2]` (low, high word) and `position` int32 `[S]` (of the new token). `bias_at`
    int32 `[E, 2]` (row of S, token) and `bias` float32 `[E]` are added to the logits; a row of S or
    more is padding.
    """

    rows: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition: jax.Array
    frequency: jax.Array
    presence: jax.Array
    seed: jax.Array
    position: jax.Array
    bias_at: jax.Array
    bias: jax.Array


class Seen(NamedTuple):
    """What penalties know of each row: `prompt` bool `[rows, V]`, `counts` int32 `[rows, V]`."""

    prompt: jax.Array
    counts: jax.Array


class Features(NamedTuple):
    """What any row of a step asks for; each combination is compiled when it first occurs."""

    random: bool = False
    filters: bool = False
    logprobs: bool = False


class Logprobs(NamedTuple):
    """Of each row the chosen token's log-probability and rank, then the most probable tokens.

    `chosen` float32 `[R]`, `rank` int32 `[R]` (1: the largest), `top_ids` int32 `[R, n]`, `top`
    float32 `[R, n]`.
    """

    chosen: jax.Array
    rank: jax.Array
    top_ids: jax.Array
    top: jax.Array


@partial(jax.jit, static_argnames="features", donate_argnames=("last_token", "seen"))
def sample_step(
    lm_head: jax.Array,
    hidden: jax.Array,
    last_token: jax.Array,
    seen: Seen | None,
    wishes: Wishes,
    features: Features,
) -> tuple[jax.Array, jax.Array, Seen | None, Logprobs | None]:
    """Choose a token for each of S rows, from hidden states `[S, H]` after the final norm.

    Returns the tokens int32 `[S]`, `last_token` and `seen` with the tokens entered, and their
    log-probabilities by the unchanged logits. A row whose logits are not finite numbers has token
    -1. `seen` is None until a request asks for penalties.
    """
    raw = logits_of(lm_head, hidden)
    logits = raw.at[wishes.bias_at[:, 0], wishes.bias_at[:, 1]].add(wishes.bias, mode="drop")
    if seen is not None:
        logits = penalize(logits, Seen(seen.prompt[wishes.rows], seen.counts[wishes.rows]), wishes)
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if features.random:
        tokens = jnp.where(wishes.temperature > 0, _draw(logits, wishes, features.filters), tokens)
    if seen is not None:
        seen = Seen(seen.prompt, seen.counts.at[wishes.rows, tokens].add(1))
    logprobs = token_logprobs(raw, tokens) if features.logprobs else None
    told = jnp.where(jnp.isfinite(logits.max(-1)), tokens, -1)
    return told, last_token.at[wishes.rows].set(tokens), seen, logprobs


@jax.jit
def target_logprobs(lm_head: jax.Array, hidden: jax.Array, targets: jax.Array) -> Logprobs:
    """Log-probabilities of int32 `targets` `[R]` after the hidden states `[R, H]`."""
    return token_logprobs(logits_of(lm_head, hidden), targets)


def token_logprobs(logits: jax.Array, tokens: jax.Array) -> Logprobs:
    """Log-probabilities of the int32 `tokens` `[R]` and of the most probable ones."""
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)
    rank = (logprobs > chosen).sum(-1) + 1
    top, top_ids = jax.lax.top_k(logprobs, min(MAX_TOP, logprobs.shape[-1]))
    return Logprobs(chosen[:, 0], rank, top_ids, top)


def penalize(logits: jax.Array, seen: Seen, wishes: Wishes) -> jax.Array:
    """Logits `[S, V]` with each row's penalties; `seen` holds the S rows."""
    in_output = seen.counts > 0
    factor = jnp.where(seen.prompt | in_output, wishes.repetition[:, None], 1.0)
    logits = jnp.where(logits > 0, logits / factor, logits * factor)
    return logits - wishes.frequency[:, None] * seen.counts - wishes.presence[:, None] * in_output


def philox_uniform(seed: jax.Array, position: jax.Array) -> jax.Array:
    """Uniform float32 `[S]` in [0, 1): Philox4x32-10 (Salmon et al., SC 2011) in 32-bit words.

    Key: uint32 `seed` `[S, 2]`; counter: (`position`, 0), int32 `[S]`; the upper 24 bits of the
    first word.
    """
    c0 = position.astype(jnp.uint32)
    c1 = c2 = c3 = jnp.zeros_like(c0)
    k0, k1 = seed[:, 0], seed[:, 1]
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(c0, _MULTIPLIERS[0])
        high_1, low_1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = k0 + jnp.uint32(_WEYL[0]), k1 + jnp.uint32(_WEYL[1])
    return (c0 >> 8).astype(jnp.float32) * 2.0**-24


def _multiply(x: jax.Array, constant: int) -> tuple[jax.Array, jax.Array]:
    """(high, low) word of a product of 32-bit words, from products of their halves."""
    low, high = jnp.uint32(constant & 0xFFFF), jnp.uint32(constant >> 16)
    x_low, x_high = x & 0xFFFF, x >> 16
    middle = x_high * low + ((x_low * low) >> 16)
    other = x_low * high + (middle & 0xFFFF)
    return x_high * high + (middle >> 16) + (other >> 16), x * jnp.uint32(constant)


def _draw(logits: jax.Array, wishes: Wishes, filters: bool) -> jax.Array:
    """One token a row: the smallest id at which the cumulative kept mass exceeds u times all."""
    temperature = jnp.where(wishes.temperature > 0, wishes.temperature, 1.0)
    probs = jax.nn.softmax(logits / temperature[:, None], axis=-1)
    if filters:
        floor = wishes.min_p[:, None] * probs.max(-1, keepdims=True)
        probs = jnp.where(probs >= floor, probs, 0.0)
        probs = jnp.where(probs >= _threshold(probs, wishes.top_k, wishes.top_p), probs, 0.0)
    # In float32 the sum over a vocabulary would move the borders between tokens.
    with jax.enable_x64(True):
        mass = jnp.cumsum(probs.astype(jnp.float64), axis=-1)
        whole = mass[:, -1:]
        target = philox_uniform(wishes.seed, wishes.position).astype(jnp.float64)[:, None] * whole
        token = (mass <= target).sum(-1)
        last = (mass < whole).sum(-1)
        return jnp.minimum(token, last).astype(jnp.int32)


def _threshold(probs: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """The smallest probability `[S, 1]` that top_k (0: off) and top_p (1: off) keep."""
    vocab_size = probs.shape[-1]
    ordered = -jnp.sort(-probs, axis=-1)
    k = jnp.where(top_k > 0, jnp.minimum(top_k, vocab_size), vocab_size)
    smallest = jnp.take_along_axis(ordered, k[:, None] - 1, axis=-1)
    ordered = jnp.where(ordered >= smallest, ordered, 0.0)
    before = jnp.cumsum(ordered, axis=-1) - ordered
    kept = before < top_p[:, None] * ordered.sum(-1, keepdims=True)
    last = jnp.maximum(kept.sum(-1, keepdims=True), 1) - 1
    smallest = jnp.maximum(smallest, jnp.take_along_axis(ordered, last, axis=-1))
    return jnp.maximum(smallest, np.finfo(np.float32).tiny)
