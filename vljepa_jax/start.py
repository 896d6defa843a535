"""Where a run starts from."""

from collections.abc import Collection
import pathlib
from typing import Any

from flax import traverse_util
import jax

from vljepa_jax import checkpoint, parts as parts_lib, sharding, weights
from vljepa_jax.config import Config
from vljepa_jax.errors import INPUT_ERRORS, as_user_error
from vljepa_jax.parts import Parts
from vljepa_jax.step import TrainState

TOWERS = ("x_encoder", "predictor", "y_encoder")


def start(
    config: Config, parts: Parts, checkpoints: checkpoint.Checkpoints
) -> tuple[TrainState, dict[str, Any] | None, str]:
  """The train state, the position of the input (None at its beginning), and where they are from, in words."""
  # What a parameter starts from, the first that there is:
  # 1. the newest checkpoint of this workdir, with the optimizer and the input position: the run goes on;
  # 2. config.init_from, the parameters of another run;
  # 3. the pretrained weights that the config names for its tower, or what follows from them (heads, token table);
  # 4. the seed.
  if checkpoints.agreed_step() is not None:
    state, data = checkpoints.restore(parts.state)
    return state, data, f"going on after step {int(jax.device_get(state.step))}"
  state, origin = first_state(config, parts)
  return state, None, origin


def first_state(config: Config, parts: Parts) -> tuple[TrainState, str]:
  """The train state of a run that begins, and where it is from, in words."""
  if config.init_from:
    path = checkpoint.find_checkpoint(pathlib.Path(config.init_from))
    params = checkpoint.load_params(path, sharding.with_shardings(parts.shapes, parts.shardings.params))
    origin = f"starting from the parameters of {path}"
  else:
    params, _ = pretrained_params(config, parts)
    origin = f"starting from seed {config.seed} and the pretrained weights"
  make_state = lambda params: parts_lib.first_state(config, parts.tx, parts.frozen, params)
  return jax.jit(make_state, out_shardings=parts.shardings, donate_argnums=0)(params), origin


def pretrained_params(config: Config, parts: Parts) -> tuple[Any, frozenset[tuple[str, ...]]]:
  """Parameters where the run begins: loaded ones where the config names weights, what follows from them, the seed.

  Only what no file gives is initialised, and every tensor goes to its devices as it is read: memory stays near the
  size of the parameters.

  Returns:
    The parameters, and the paths of those that are as the seed made them.
  """
  placed = traverse_util.flatten_dict(parts.shardings.params)
  leaves = {}
  with as_user_error(*INPUT_ERRORS):
    for name in TOWERS:
      spec = getattr(config.model, name).weights
      if spec:
        loaded = weights.load_tower(spec, getattr(parts.model.config, name), parts.shapes[name])
        flat = traverse_util.flatten_dict(loaded)
        del loaded
        for path in list(flat):
          leaves[name, *path] = sharding.put_same(flat.pop(path), placed[name, *path])
    seeded = _seeded(config.seed, parts, leaves.keys())
    leaves |= seeded
    params = traverse_util.unflatten_dict({path: leaves[path] for path in placed})
    if config.model.y_head:
      params = weights.init_y_head(config.model.y_head_init, params)
    if config.model.token_init == "y_encoder":
      params = weights.copy_token_table(params)
  flat = traverse_util.flatten_dict(params)
  untouched = frozenset(path for path in seeded if flat[path] is seeded[path])
  return jax.device_put(params, parts.shardings.params), untouched


def _seeded(seed: int, parts: Parts, given: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], jax.Array]:
  """The leaves that are not given, by path; the same values whatever is given."""

  def init(key):
    flat = traverse_util.flatten_dict(sharding.unbox(parts.init(key)))
    return {path: leaf for path, leaf in flat.items() if path not in given}

  flat = traverse_util.flatten_dict(parts.shardings.params)
  placed = {path: place for path, place in flat.items() if path not in given}
  return jax.jit(init, out_shardings=placed)(jax.random.key(seed))
