"""Training step against torch: python benchmarks/step_vs_torch.py [--config=configs/base.py] [--rounds=5].

Needs `pip install -r benchmarks/requirements.txt` beside the package's own requirements. On the CPU, or with
JAX_PLATFORMS=cuda on a GPU that both JAX and torch can use, in one process and in turns (ours, torch eager, torch.compile, ours, ...), it times whole steps on cached visual features: predictor and
text encoder forward and backward with the config's dropout, InfoNCE without duplicates, clipping, AdamW in the
config's groups. Nothing is read: parameters start from the seed, one batch is random and already in memory.

The torch twin is plain torch as one would write it: `scaled_dot_product_attention`, fused AdamW, foreach clipping, the
same parameters, float32, and no gradient for what the config freezes. Before the clock starts, the loss and the norm of
the gradient without dropout must agree, in full float32; steps on a GPU multiply in TF32 on both sides. Our step also computes its metrics; the twin computes none.

Both use all cores. A pool of threads that spins while the other one works would spoil its time: OMP_WAIT_POLICY is
"passive" unless set, and the first step of every turn is not counted.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with torch
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

from collections.abc import Callable
import pathlib
import sys
import time
from typing import Any

from absl import flags
import flax.linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vljepa_jax import cli
from vljepa_jax import config as config_lib
from vljepa_jax import loss, optim, sharding, start
from vljepa_jax.config import Config
from vljepa_jax.errors import UserError
from vljepa_jax.model import presets
from vljepa_jax.model.layers import MASKED_LOGIT, rope_frequencies
from vljepa_jax.model.vljepa import VLJepa, VLJepaConfig
from vljepa_jax.parts import Parts, make_parts, make_step

_CONFIG = config_flags.DEFINE_config_file("config", "configs/base.py", "Recipe: FILE or FILE:VARIANT.", lock_config=True)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each contestant.", lower_bound=1)

COUNTED = 2  # steps of a turn that count, after one that does not
LOSS_TOLERANCE = 1e-4  # relative
GRAD_NORM_TOLERANCE = 1e-3  # relative
DISTINCT = 0.9  # distinct target texts per row, so that some occur twice


# The torch twin. Submodules are named as ours, so that parameters find their place by path.


class PredictorBlock(torch.nn.Module):

  def __init__(self, c: presets.PredictorConfig):
    super().__init__()
    self.config = c
    self.norm1 = torch.nn.RMSNorm(c.width, eps=c.norm_eps)
    self.norm2 = torch.nn.RMSNorm(c.width, eps=c.norm_eps)
    self.query = torch.nn.Linear(c.width, c.num_heads * c.head_width, bias=False)
    self.key = torch.nn.Linear(c.width, c.num_kv_heads * c.head_width, bias=False)
    self.value = torch.nn.Linear(c.width, c.num_kv_heads * c.head_width, bias=False)
    self.out = torch.nn.Linear(c.num_heads * c.head_width, c.width, bias=False)
    self.gate = torch.nn.Linear(c.width, c.mlp_width, bias=False)
    self.up = torch.nn.Linear(c.width, c.mlp_width, bias=False)
    self.down = torch.nn.Linear(c.mlp_width, c.width, bias=False)
    self.drop = torch.nn.Dropout(c.dropout)

  def forward(self, x, mask, cos, sin):
    x = x + self.drop(self._attend(self.norm1(x), mask, cos, sin))
    y = self.norm2(x)
    return x + self.drop(self.down(F.silu(self.gate(y)) * self.up(y)))

  def _attend(self, x, mask, cos, sin):
    c = self.config
    q, k, v = (y.unflatten(-1, (-1, c.head_width)).transpose(1, 2) for y in (self.query(x), self.key(x), self.value(x)))
    y = F.scaled_dot_product_attention(
        rotate(q, cos, sin), rotate(k, cos, sin), v, mask, enable_gqa=c.num_kv_heads != c.num_heads)
    return self.out(y.transpose(1, 2).flatten(2))


class Predictor(torch.nn.Module):

  def __init__(self, c: presets.PredictorConfig, visual_width: int, length: int, embed_width: int):
    super().__init__()
    self.token_embed = torch.nn.Embedding(c.vocab_size, c.token_width)
    self.visual_proj = torch.nn.Linear(visual_width, c.width)
    self.query_proj = torch.nn.Linear(c.token_width, c.width)
    self.blocks = add_layers(self, [PredictorBlock(c) for _ in range(c.num_layers)])
    self.norm = torch.nn.RMSNorm(c.width, eps=c.norm_eps)
    self.head = torch.nn.Linear(c.width, embed_width)
    frequencies = torch.from_numpy(rope_frequencies(c.head_width, c.rope_theta, c.rope_scaling))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    self.register_buffer("cos", angles.cos(), persistent=False)
    self.register_buffer("sin", angles.sin(), persistent=False)

  def forward(self, visual, query, query_mask):
    x = torch.cat([self.visual_proj(visual.float()), self.query_proj(self.token_embed(query))], dim=1)
    real = torch.cat([query_mask.new_ones(visual.shape[:2]), query_mask], dim=1)
    for block in self.blocks:
      x = block(x, real[:, None, None, :], self.cos, self.sin)
    return self.head(masked_mean(self.norm(x), real))


class BertBlock(torch.nn.Module):

  def __init__(self, c: presets.BertConfig):
    super().__init__()
    self.num_heads = c.num_heads
    for name in ("query", "key", "value", "out"):
      self.add_module(name, torch.nn.Linear(c.width, c.width))
    self.up = torch.nn.Linear(c.width, c.mlp_width)
    self.down = torch.nn.Linear(c.mlp_width, c.width)
    self.norm1 = torch.nn.LayerNorm(c.width, eps=c.norm_eps)
    self.norm2 = torch.nn.LayerNorm(c.width, eps=c.norm_eps)
    self.drop = torch.nn.Dropout(c.dropout)

  def forward(self, x, mask):
    x = self.norm1(x + self.drop(self._attend(x, mask)))
    return self.norm2(x + self.drop(self.down(F.gelu(self.up(x)))))

  def _attend(self, x, mask):
    q, k, v = (
        y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in (self.query(x), self.key(x), self.value(x)))
    return self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Bert(torch.nn.Module):

  def __init__(self, c: presets.BertConfig):
    super().__init__()
    self.token_embed = torch.nn.Embedding(c.vocab_size, c.width)
    self.type_embed = torch.nn.Embedding(2, c.width)
    self.position_embed = torch.nn.Embedding(c.max_positions, c.width)
    self.embed_norm = torch.nn.LayerNorm(c.width, eps=c.norm_eps)
    self.drop = torch.nn.Dropout(c.dropout)
    self.blocks = add_layers(self, [BertBlock(c) for _ in range(c.num_layers)])

  def forward(self, ids, mask):
    x = self.token_embed(ids) + self.type_embed.weight[0] + self.position_embed.weight[:ids.shape[1]]
    x = self.drop(self.embed_norm(x))
    for block in self.blocks:
      x = block(x, mask[:, None, None, :])
    return x


class YEncoder(torch.nn.Module):

  def __init__(self, c: presets.BertConfig, embed_width: int | None):
    super().__init__()
    self.backbone = Bert(c)
    self.head = torch.nn.Identity() if embed_width is None else torch.nn.Linear(c.width, embed_width)

  def forward(self, target, target_mask):
    return self.head(masked_mean(self.backbone(target, target_mask), target_mask))


class Twin(torch.nn.Module):
  """Our model but for the X-encoder, and our loss."""

  def __init__(self, c: VLJepaConfig, visual_width: int, length: int):
    super().__init__()
    self.predictor = Predictor(c.predictor, visual_width, length, c.embed_width)
    self.y_encoder = YEncoder(c.y_encoder, c.embed_width if c.y_head else None)
    self.log_scale = torch.nn.Parameter(torch.zeros(()))

  def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    pred = F.normalize(self.predictor(batch["visual"], batch["query"], batch["query_mask"]), dim=-1)
    target = F.normalize(self.y_encoder(batch["target"], batch["target_mask"]), dim=-1)
    logits = self.log_scale.clamp(max=loss.MAX_LOG_SCALE).exp() * (pred @ target.T)
    same_text = batch["target_id"][:, None] == batch["target_id"][None, :]
    itself = torch.arange(len(logits), device=logits.device)
    same_text = same_text & (itself[:, None] != itself)
    candidates = logits.masked_fill(same_text, MASKED_LOGIT)
    return 0.5 * (F.cross_entropy(candidates, itself) + F.cross_entropy(candidates.T, itself))


def add_layers(module: torch.nn.Module, blocks: list[torch.nn.Module]) -> tuple[torch.nn.Module, ...]:
  """Registers blocks as `layers_0`, `layers_1`, ..."""
  for i, block in enumerate(blocks):
    module.add_module(f"layers_{i}", block)
  return tuple(blocks)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
  a, b = x.chunk(2, dim=-1)
  return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
  mask = mask[..., None]
  return x.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def torch_name(path: str) -> str:
  """Where the twin keeps our parameter `path`."""
  parent, _, leaf = path.rpartition("/")
  leaf = {"kernel": "weight", "embedding": "weight", "scale": "weight"}.get(leaf, leaf)
  return f"{parent}/{leaf}".strip("/").replace("/", ".")


# The contestants. Each has `check()` -> (loss, norm of the gradient) without dropout, and `step()`.


class Ours:

  name = "jax"

  def __init__(self, config: Config, parts: Parts, params: Any, batch: dict[str, np.ndarray]):
    self._parts = parts
    self._batch = sharding.put_batch(batch, parts.rows)
    self._step = make_step(config, parts)
    make_state = lambda params: start.parts_lib.first_state(config, parts.tx, parts.frozen, params)
    self._state = jax.jit(make_state, out_shardings=parts.shardings)(params)

  def check(self) -> tuple[float, float]:

    def loss_fn(params):
      params = jax.tree.map(lambda p, skip: jax.lax.stop_gradient(p) if skip else p, params, self._parts.frozen)
      outputs = self._parts.model.apply({"params": params}, self._batch)
      return loss.info_nce(*outputs, self._batch["target_id"])[0]

    with jax.default_matmul_precision("highest"):
      value, grads = jax.jit(jax.value_and_grad(loss_fn))(self._state.params)
    return float(value), float(jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads))))

  def step(self) -> None:
    self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready((self._state, metrics))


class Torch:

  def __init__(self, config: Config, parts: Parts, params: Any, batch: dict[str, np.ndarray], compiled: bool):
    self.name = "torch.compile" if compiled else "torch eager"
    device = "cuda" if on_gpu() else "cpu"
    self._batch = {name: torch.from_numpy(rows).to(device) for name, rows in batch.items()}
    length = batch["visual"].shape[1] + batch["query"].shape[1]
    self._model = Twin(parts.model.config, batch["visual"].shape[-1], length)
    self._model.load_state_dict({
        torch_name(path): torch.from_numpy(np.array(value.T if path.endswith("/kernel") else value))
        for path, value in flat(params).items()})
    self._model.to(device)
    self._loss = torch.compile(self._model) if compiled else self._model
    self._clip_norm = config.optim.clip_norm
    groups = param_groups(config, parts, dict(self._model.named_parameters()))
    self._trained = [p for group in groups for p in group["params"]]
    self._optimizer = torch.optim.AdamW(
        groups, lr=config.optim.learning_rate, betas=(config.optim.b1, config.optim.b2), fused=True)
    schedule = optim.make_schedule(config.optim, config.train.steps)
    self._rates = np.asarray(schedule(jnp.arange(config.train.steps))).tolist()
    self._done = 0

  def check(self) -> tuple[float, float]:
    self._model.eval()
    torch.set_float32_matmul_precision("highest")
    value = self._loss(self._batch)
    value.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained])
    self._optimizer.zero_grad()
    self._model.train()
    torch.set_float32_matmul_precision("high")  # what JAX does on a GPU unless told otherwise
    return value.item(), norm.item()

  def step(self) -> None:
    rate = self._rates[min(self._done, len(self._rates) - 1)]
    for group in self._optimizer.param_groups:
      group["lr"] = group["multiplier"] * rate
    self._loss(self._batch).backward()
    torch.nn.utils.clip_grad_norm_(self._trained, self._clip_norm, foreach=True)
    self._optimizer.step()
    self._optimizer.zero_grad()
    with torch.no_grad():
      self._model.log_scale.clamp_(max=loss.MAX_LOG_SCALE)
    self._done += 1
    if on_gpu():
      torch.cuda.synchronize()


def on_gpu() -> bool:
  return jax.default_backend() == "gpu"


def param_groups(config: Config, parts: Parts, named: dict[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
  """The config's groups for torch's AdamW; a group that decays and one that does not for each. Freezes the rest."""
  multipliers = {optim.group_name(multiplier): multiplier for _, multiplier in config.optim.groups}
  decays = flat(optim.decay_mask(parts.shapes))
  groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
  for path, label in flat(parts.labels).items():
    param, multiplier = named[torch_name(path)], multipliers[label]
    if multiplier is None:
      param.requires_grad_(False)
    else:
      groups.setdefault((multiplier, decays[path]), []).append(param)
  return [
      dict(params=params, multiplier=multiplier, weight_decay=config.optim.weight_decay if decay else 0.0)
      for (multiplier, decay), params in groups.items()]


def flat(params: Any) -> dict[str, Any]:
  """Leaves by path, without the X-encoder, which a step on cached features does not run."""
  return traverse_util.flatten_dict({name: tree for name, tree in params.items() if name != "x_encoder"}, sep="/")


def random_batch(config: Config, parts: Parts) -> dict[str, np.ndarray]:
  """A training batch of the config's heaviest stream; texts of random tokens and lengths."""
  rng = np.random.default_rng(config.seed)
  data, size = config.data, config.train.batch_size
  query_free = max(data.sources, key=lambda source: source.weight).view == "caption"
  query_length, target_length = 0 if query_free else config.tokenizers.query.length, config.tokenizers.target.length
  video = jax.ShapeDtypeStruct((size, data.frames, data.image_size, data.image_size, 3), jnp.uint8)
  encode = lambda params, video: parts.model.apply({"params": params}, video, method=VLJepa.encode_video)
  rows, tokens, width = jax.eval_shape(encode, parts.shapes, video).shape
  towers = parts.model.config
  query = np.arange(query_length) < rng.integers(min(1, query_length), query_length, (size, 1), endpoint=True)
  target = np.arange(target_length) < rng.integers(1, target_length, (size, 1), endpoint=True)
  texts = rng.integers(0, towers.y_encoder.vocab_size, (size, target_length), np.int32)
  text = rng.integers(0, max(1, int(DISTINCT * size)), size, np.int32)
  return {
      "visual": rng.standard_normal((rows, data.feature_tokens or tokens, width), np.float32).astype(np.float16),
      "query": rng.integers(0, towers.predictor.vocab_size, (size, query_length), np.int32),
      "query_mask": query,
      "target": texts[text],
      "target_mask": target[text],
      "target_id": text,
  }


def check_twin_exists(config: Config, model: VLJepaConfig) -> None:
  """UserError for what the twin does not have."""
  towers = model.predictor, model.y_encoder
  if not isinstance(model.y_encoder, presets.BertConfig):
    raise UserError("the torch twin has a BERT as its text encoder only")
  if model.predictor.causal or any(c.scan or c.remat or c.dtype != "float32" for c in towers):
    raise UserError("the torch twin has float32 towers without causal, scan and remat only")
  if config.optim.ema:
    raise UserError("the torch twin keeps no average of the parameters: set config.optim.ema to 0")


def check_agreement(contestants: list[Any]) -> None:
  """UserError unless all have the loss and the norm of the gradient of the first."""
  results = [(c.name, *c.check()) for c in contestants]
  for name, value, norm in results:
    print(f"  {name:<14} loss {value:.6f}  gradient {norm:.6f}")
  _, value, norm = results[0]
  for name, other_value, other_norm in results[1:]:
    if abs(other_value / value - 1) > LOSS_TOLERANCE or abs(other_norm / norm - 1) > GRAD_NORM_TOLERANCE:
      raise UserError(f"{name} does not compute what ours does")


def milliseconds(step: Callable[[], None], steps: int) -> list[float]:
  """Time of each of so many steps, after one that does not count."""
  step()
  times = []
  for _ in range(steps):
    began = time.perf_counter()
    step()
    times.append(1e3 * (time.perf_counter() - began))
  return times


def main() -> None:
  plain = _CONFIG.value.to_dict()
  for tower in start.TOWERS:
    plain["model"][tower]["weights"] = ""
  config = config_lib.parse(plain)
  cores = len(os.sched_getaffinity(0))  # what XLA counts, too
  torch.set_num_threads(cores)
  torch.manual_seed(config.seed)
  parts = make_parts(config, jax.devices()[:1])
  check_twin_exists(config, parts.model.config)
  batch = random_batch(config, parts)
  trained = sum(x.size for x, label in zip(flat(parts.shapes).values(), flat(parts.labels).values(), strict=True)
                if label != optim.FROZEN)
  print(f"{config.name}: visual {batch['visual'].shape}, query {batch['query'].shape}, target {batch['target'].shape}, "
        f"dropout {parts.model.config.predictor.dropout}, {trained / 1e6:.1f} M trained parameters, float32")
  print(f"jax {jax.__version__}, torch {torch.__version__}; {jax.devices()[0].device_kind}; {cores} cores and torch threads; "
        f"OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}; load before {os.getloadavg()[0]:.2f}", flush=True)

  with jax.set_mesh(parts.mesh), nn.logical_axis_rules(config.mesh.rules):
    params, _ = start.pretrained_params(config, parts)
    towers = jax.device_get({name: tree for name, tree in params.items() if name != "x_encoder"})
    contestants = [
        Ours(config, parts, params, batch),
        Torch(config, parts, towers, batch, compiled=False),
        Torch(config, parts, towers, batch, compiled=True),
    ]
    check_agreement(contestants)
    for contestant in contestants:
      milliseconds(contestant.step, 1)  # compiles
    times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(_ROUNDS.value):
      for contestant in contestants:
        times[contestant.name] += milliseconds(contestant.step, COUNTED)
      latest = ", ".join(f"{name} {np.mean(spent[-COUNTED:]):.0f}" for name, spent in times.items())
      print(f"  round {number + 1}: {latest} ms", flush=True)

  medians = {name: float(np.median(spent)) for name, spent in times.items()}
  print(f"median of {COUNTED * _ROUNDS.value} steps; torch/jax is 1 or more where ours is at least as fast")
  for name, median in medians.items():
    print(f"  {name:<14} {median:8.1f} ms  {min(times[name]):8.1f} at best  {median / medians[Ours.name]:.3f}")


if __name__ == "__main__":
  cli.run(main)
