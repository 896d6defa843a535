"""Softmax attention: one function, and the program that suits the hardware.

  tpu    splash attention, the Pallas kernel that ships with JAX: no table of logits in memory
  gpu    cuDNN's fused attention, in half precision; float32 takes the plain program
  else   the plain program

Shape letters as in `layers.py`, and M keys.
"""

import functools

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vljepa_jax.model.layers import ATTENTION, axis_parts

# Weights far below any real logit, but finite: a row with no key left gives a mean, not a NaN.
MASKED_LOGIT = -1e30

XLA, SPLASH, CUDNN = "xla", "splash", "cudnn"
LANES = 128  # of a TPU's vector unit: splash takes sequences in multiples of it
BLOCK = 512  # tokens that splash works on at a time, at most
SPLASH_BLOCKS = (
    "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute", "block_q_dq",
    "block_kv_dq",
)


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, scale: float, *, real: jax.Array | None = None, causal: bool = False,
    window: int | None = None, windowed: jax.Array | None = None, kernel: str | None = None,
) -> jax.Array:
  """Softmax attention with grouped keys; softmax in float32.

  Args:
    q: (B, S, K, h).
    k: (B, S, G, h) with G dividing K; query head i reads key head i // (K / G).
    v: like k.
    scale: of the logits.
    real: (B, S), True = real token; nobody looks at the others, and what they get themselves means nothing.
    causal: a query sees keys up to its own place.
    window: exclusive radius beyond which a query sees nothing.
    windowed: () bool, whether the window counts in this layer; None says that it does.
    kernel: "xla", "splash" or "cudnn"; by default what suits the devices of the current mesh.

  Returns:
    (B, S, K, h).
  """
  kernel = kernel or _suitable(q)
  limited = functools.partial(KERNELS[kernel], scale=scale, real=real, causal=causal)
  if window is None:
    return limited(q, k, v, window=None)
  if windowed is None:
    return limited(q, k, v, window=window)
  if kernel == XLA:
    return limited(q, k, v, window=jnp.where(windowed, window, q.shape[1]))
  return jax.lax.cond(
      windowed, lambda *x: limited(*x, window=window), lambda *x: limited(*x, window=None), q, k, v)


def _suitable(q: jax.Array) -> str:
  """The kernel for the devices of the current mesh, or for JAX's own where there is none."""
  mesh = jax.sharding.get_abstract_mesh()
  platform = jax.default_backend() if mesh.empty else mesh.abstract_device.platform
  if platform == "tpu":
    return SPLASH
  return CUDNN if platform in ("gpu", "cuda") and q.dtype in (jnp.bfloat16, jnp.float16) else XLA


def plain(
    q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, real: jax.Array | None, causal: bool,
    window: int | jax.Array | None,
) -> jax.Array:
  """The table of logits, written out; what the others are checked against."""
  batch, length, heads, width = q.shape
  groups = k.shape[2]
  q = q.reshape(batch, length, groups, heads // groups, width)
  logits = jnp.einsum("bsgrh,bmgh->bgrsm", q, k, preferred_element_type=jnp.float32) * scale
  mask = _mask(length, real, causal, window)
  if mask is not None:
    logits = jnp.where(mask[:, None, None], logits, MASKED_LOGIT)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  out = jnp.einsum("bgrsm,bmgh->bsgrh", weights, v).reshape(batch, length, heads, width)
  return checkpoint_name(out, ATTENTION)


def _mask(
    length: int, real: jax.Array | None, causal: bool, window: int | jax.Array | None
) -> jax.Array | None:
  """(B or 1, S or 1, M), True where a query may look; None where it may look everywhere."""
  place = jnp.arange(length)
  limits = [] if real is None else [real[:, None, :]]
  if causal:
    limits.append((place[:, None] >= place)[None])
  if window is not None:
    limits.append((jnp.abs(place[:, None] - place) < window)[None])
  return functools.reduce(jnp.logical_and, limits) if limits else None


def cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, real: jax.Array | None, causal: bool, window: int | None
) -> jax.Array:
  """cuDNN's fused attention, through `jax.nn.dot_product_attention`."""
  mask = _mask(q.shape[1], real, causal, window)
  mask = None if mask is None else jnp.broadcast_to(mask[:, None], (len(mask), 1, q.shape[1], q.shape[1]))
  return checkpoint_name(
      jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation="cudnn"), ATTENTION)


def splash(
    q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, real: jax.Array | None, causal: bool,
    window: int | None, interpret: bool = False,
) -> jax.Array:
  """Splash attention on every device's own rows and heads; pads are a segment of their own.

  Args:
    interpret: runs the kernel without a TPU, for tests.
  """
  segments = jnp.ones(q.shape[:2], jnp.int32) if real is None else real.astype(jnp.int32)
  local = functools.partial(
      _local_splash, scale=scale, causal=causal, window=window, segmented=real is not None, interpret=interpret)
  rows, heads = _placed(q.shape, k.shape)
  if rows is None and heads is None:
    return local(q, k, v, segments)
  # The compiler cannot cut a kernel into the parts of a mesh by itself.
  by_head = P(rows, None, heads, None)
  return jax.shard_map(
      local, in_specs=(by_head, by_head, by_head, P(rows, None)), out_specs=by_head, check_vma=False)(q, k, v, segments)


def _placed(queries: tuple[int, ...], keys: tuple[int, ...]) -> tuple[tuple | str | None, tuple | str | None]:
  """Mesh axes of rows and of heads by the current rules; None for what does not divide over them."""
  rules = dict(nn.get_logical_axis_rules())
  rows, heads = axis_parts("act_batch"), axis_parts("act_heads")
  return (
      rules["act_batch"] if rows > 1 and queries[0] % rows == 0 else None,
      rules["act_heads"] if heads > 1 and queries[2] % heads == keys[2] % heads == 0 else None,
  )


def _local_splash(q, k, v, segments, *, scale, causal, window, segmented, interpret):
  """On one device; sequences are padded to whole lanes by tokens of a segment of their own."""
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels  # TPU only: slow

  length = q.shape[1]
  padding = -length % LANES
  if padding:
    q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
    segments = jnp.pad(segments, ((0, 0), (0, padding)), constant_values=-1)
  kernel = _splash_kernel(length + padding, q.shape[2], q.shape[3], causal, window, interpret)
  by_head = [x.swapaxes(1, 2) for x in (q * jnp.asarray(scale, q.dtype), k, v)]  # (B, K, S, h)
  if segmented or padding:
    out = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, kernels.SegmentIds(ids, ids)))(*by_head, segments)
  else:
    out = jax.vmap(kernel)(*by_head)
  return out.swapaxes(1, 2)[:, :length]


def _splash_kernel(length, heads, width, causal, window, interpret):
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  before = None if window is None else window - 1
  whole = window is None and not causal
  mask = masks.FullMask((length, length)) if whole else masks.LocalMask(
      (length, length), (before, 0 if causal else before), offset=0)
  block = next(size for size in (BLOCK, BLOCK // 2, LANES) if length % size == 0)
  # The last axis is padded to whole lanes: narrow heads would take twice their memory there.
  layout = kernels.QKVLayout.SEQ_MINOR if width < LANES else kernels.QKVLayout.HEAD_DIM_MINOR
  sizes = kernels.BlockSizes(
      **{name: block for name in SPLASH_BLOCKS}, q_layout=layout, k_layout=layout, v_layout=layout)
  return kernels.make_splash_mha(
      masks.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1,
      residual_checkpoint_name=ATTENTION, interpret=interpret)


KERNELS = {XLA: plain, SPLASH: splash, CUDNN: cudnn}
