"""What a compiled TPU program moves: its collectives, and the traffic of its memory.

Reads the text of a program after all optimisations. XLA's own cost analysis counts the body of a loop once; here every
instruction counts as often as its loops turn.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

import numpy as np

# Bytes of an element; half a byte is rounded up.
WIDTHS = {
    "pred": 1, "s8": 1, "u8": 1, "s4": 1, "u4": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Names for something that exists already, or bookkeeping: nothing moves.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "while", "conditional", "call", "async-start", "async-update", "async-done", "copy-done", "slice-done", "iota",
    *(f"{name}-done" for name in COLLECTIVES),
}

_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program; `rest` is all that stands after the operands."""

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  rest: str
  root: bool

  @functools.cached_property
  def called(self) -> dict[str, str]:
    """Computations by the role in which this instruction calls them."""
    return dict(_CALLED.findall(self.rest))

  @functools.cached_property
  def branches(self) -> tuple[str, ...]:
    """Computations of a conditional."""
    found = _BRANCHES.search(self.rest)
    if found:
      return tuple(name.strip().lstrip("%") for name in found[1].split(","))
    return tuple(self.called[role] for role in ("true_computation", "false_computation") if role in self.called)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One kind of exchange between chips.

  Attributes:
    op: one of `COLLECTIVES`.
    bytes: of the operand of one chip, and of the result for an all-gather, each time.
    times: a step.
    group: devices that exchange with device 0, as positions in the mesh.
    place: of the model it belongs to, as its op_name has it.
  """

  op: str
  bytes: int
  times: int
  group: tuple[int, ...]
  place: str


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What a program does in one run on one chip.

  Attributes:
    hbm_bytes: read from and written to main memory.
    collectives: all of them, loops included.
  """

  hbm_bytes: int
  collectives: tuple[Collective, ...]


class Program:
  """A parsed program: computations of instructions by name."""

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ""
    current = None
    for line in text.splitlines():
      if current is not None and (parsed := _parse(line)):
        current[parsed.name] = parsed
      elif line.rstrip() == "}":
        current = None
      elif line and not line[0].isspace() and (header := _HEADER.match(line)):
        current = self.computations.setdefault(header[2], {})
        self.entry = header[2] if header[1] else self.entry
    if not self.entry:
      raise ValueError("this is not the text of a compiled program: it has no ENTRY")

  def traffic(self) -> Traffic:
    """What one run moves."""
    total, collectives = 0, []
    for computation, times in self._runs(self.entry, 1):
      instructions = self.computations[computation]
      for instruction in instructions.values():
        total += times * self._hbm_bytes(instruction, instructions)
        found = self._collectives(instruction, instructions)
        collectives += [dataclasses.replace(c, times=c.times * times) for c in found]
    return Traffic(total, _merged(collectives))

  def trip_count(self, loop: Instruction, around: dict[str, Instruction]) -> int:
    """Turns of a while loop that counts from 0 to a constant, in its condition or among what it carries."""
    condition = self.computations[loop.called["condition"]]
    limits = [value for i in condition.values() for value in self._integers(i)]
    start = around[loop.operands[0]]
    for element in condition.values():
      if element.opcode == "get-tuple-element" and start.opcode == "tuple":
        carried = start.operands[int(re.search(r"index=(\d+)", element.rest)[1])]
        while carried in around and around[carried].opcode in ("copy", "bitcast"):
          carried = around[carried].operands[0]
        limits += self._integers(around[carried]) if carried in around else []
    if not any(limits):
      raise ValueError(f"the loop %{loop.name} does not count to a constant")
    return max(limits)

  def _integers(self, instruction: Instruction) -> list[int]:
    """Of an integer constant, or of a fusion that holds some."""
    if instruction.opcode == "fusion":
      return [n for inner in self.computations[instruction.called["calls"]].values() for n in self._integers(inner)]
    if instruction.opcode != "constant" or not re.match(r"[su]32\[\]", instruction.shape):
      return []
    found = re.match(r"\d+", instruction.rest)
    return [int(found[0])] if found else []

  def _runs(self, computation: str, times: int) -> Iterator[tuple[str, int]]:
    """Every computation that is no fusion, with the number of its runs; of a conditional the branch that costs most."""
    yield computation, times
    for instruction in self.computations[computation].values():
      if instruction.opcode == "while":
        turns = self.trip_count(instruction, self.computations[computation])
        yield from self._runs(instruction.called["body"], times * turns)
      elif instruction.opcode == "conditional":
        yield from self._runs(max(instruction.branches, key=self._size), times)
      elif instruction.opcode == "call":
        yield from self._runs(instruction.called["to_apply"], times)
      elif instruction.opcode == "async-start" and "calls" in instruction.called:
        yield from self._runs(instruction.called["calls"], times)

  def _size(self, computation: str) -> int:
    instructions = self.computations[computation]
    return sum(self._hbm_bytes(i, instructions) for i in instructions.values())

  def _hbm_bytes(self, instruction: Instruction, around: dict[str, Instruction]) -> int:
    """Main-memory bytes that one instruction reads and writes."""
    if instruction.opcode in FREE:
      return 0
    shapes = [around[name].shape for name in instruction.operands if name in around]
    if instruction.opcode == "fusion":
      return self._fusion_bytes(instruction, shapes)
    if instruction.opcode == "dynamic-update-slice":
      return 2 * hbm_bytes(shapes[1])
    if instruction.opcode in ("dynamic-slice", "gather", "slice"):
      return hbm_bytes(instruction.shape) + (hbm_bytes(instruction.shape, True) if hbm_bytes(shapes[0]) else 0)
    if instruction.opcode == "copy-start":  # its shape holds both ends, each where it lies
      return hbm_bytes(instruction.shape)
    return hbm_bytes(instruction.shape) + sum(map(hbm_bytes, shapes))

  def _fusion_bytes(self, fusion: Instruction, shapes: list[str]) -> int:
    """Operands and results, but of an operand that is only sliced the slice, and of an update in place the update."""
    body = self.computations[fusion.called["calls"]]
    places = {int(re.match(r"\d+", i.rest)[0]): name for name, i in body.items() if i.opcode == "parameter"}
    read = 0
    for number, shape in enumerate(shapes):
      read += self._read_bytes(places[number], shape, body) if number in places else hbm_bytes(shape)
    root = next(i for i in body.values() if i.root)
    roots = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    written = 0
    for out in roots:
      while out.opcode in ("bitcast", "copy") and out.operands and out.operands[0] in body:
        out = body[out.operands[0]]
      written += hbm_bytes(body[out.operands[1]].shape if out.opcode == "dynamic-update-slice" else out.shape, True)
    return read + (written if hbm_bytes(fusion.shape) else 0)

  def _read_bytes(self, name: str, shape: str, body: dict[str, Instruction]) -> int:
    whole = hbm_bytes(shape)
    if not whole:
      return 0
    part = 0
    for user in (i for i in body.values() if name in i.operands):
      if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
        part += hbm_bytes(user.shape, True)
      elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        part += 0  # written in place
      elif user.opcode == "bitcast":
        part += self._read_bytes(user.name, shape, body)
      else:
        return whole
    return min(part, whole)

  def _collectives(self, instruction: Instruction, around: dict[str, Instruction]) -> list[Collective]:
    """Those that an instruction is or, as a fusion, holds."""
    if instruction.opcode == "fusion":
      name = instruction.called["calls"]
      held = [c for inner in self.computations[name].values() for c in self._one(inner, self.computations[name])]
      # How TPU programs have a reduce-scatter: an all-reduce of which every chip keeps its part.
      op = "reduce-scatter" if name.startswith("all-reduce-scatter") else None
      return [dataclasses.replace(c, op=op or c.op, place=c.place or _op_name(instruction)) for c in held]
    return self._one(instruction, around)

  def _one(self, instruction: Instruction, around: dict[str, Instruction]) -> list[Collective]:
    op = instruction.opcode.removesuffix("-start")
    if op == "send" and "_xla_megascale_transfer_type" in instruction.rest:
      return [_between_slices(instruction)]
    if op not in COLLECTIVES:
      return []
    operands = sum(array_bytes(around[name].shape) for name in instruction.operands if name in around)
    group = device_group(instruction.rest)
    size = operands * len(group) if op == "all-gather" else operands
    return [Collective(op, size, 1, group, _op_name(instruction))]


def _parse(line: str) -> Instruction | None:
  found = _INSTRUCTION.match(line)
  if not found:
    return None
  opcode = _OPCODE.search(" " + found[2])
  if not opcode:
    return None
  shape, after = found[2][: max(opcode.start() - 1, 0)], found[2][opcode.end() - 1:]
  inside = _to_closing(after)
  return Instruction(
      found[1], shape, opcode[1], tuple(re.findall(r"%([\w.\-]+)", inside)),
      inside + " " + after[len(inside):] if opcode[1] in ("parameter", "constant") else after[len(inside):],
      line.lstrip().startswith("ROOT"))


def _between_slices(send: Instruction) -> Collective:
  """What TPU programs have of an exchange between slices: every chip hands its share to the network."""
  op = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.rest)[1].lower().replace("_", "-")
  slices, last = re.search(r'_xla_megascale_target="\{([\d,]+)\}x\{0:(\d+)\}"', send.rest).groups()
  chips = int(last) + 1  # of a slice
  group = tuple(i * chips for i in range(len(slices.split(","))))
  size = array_bytes(send.shape.partition("}")[0])
  return Collective(op, size * len(group) if op == "all-gather" else size, 1, group, _op_name(send))


def _op_name(instruction: Instruction) -> str:
  found = re.search(r'op_name="([^"]*)"', instruction.rest)
  return found[1] if found else ""


def _to_closing(text: str) -> str:
  """Up to the parenthesis that closes what was opened before the text."""
  depth = 1
  for i, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return text[:i]
  return text


def _merged(collectives: list[Collective]) -> tuple[Collective, ...]:
  """Equal ones once, with their times added; the largest total first."""
  times: dict[Collective, int] = {}
  for c in collectives:
    key = dataclasses.replace(c, times=0)
    times[key] = times.get(key, 0) + c.times
  return tuple(sorted(
      (dataclasses.replace(key, times=count) for key, count in times.items()), key=lambda c: -c.bytes * c.times))


def array_bytes(shape: str) -> int:
  """Bytes of all arrays in a shape, without padding."""
  return sum(
      WIDTHS.get(kind, 0) * math.prod(map(int, filter(None, sizes.split(","))))
      for kind, sizes, _ in _ARRAY.findall(shape))


def hbm_bytes(shape: str, anywhere: bool = False) -> int:
  """Bytes that the arrays of a shape take in main memory, padded to the tiles of their layouts.

  Args:
    anywhere: counts arrays of on-chip memory, S(1) and up, too; inside a fusion layouts do not say where things are.
  """
  total = 0
  for kind, sizes, layout in _ARRAY.findall(shape):
    if kind not in WIDTHS or (not anywhere and re.search(r"S\([1-9]", layout)):
      continue
    total += WIDTHS[kind] * math.prod(_padded([int(n) for n in sizes.split(",") if n], layout))
  return total


def _padded(sizes: list[int], layout: str) -> list[int]:
  order, _, rest = layout.partition(":")
  tile = re.match(r"T\(([\d,]+)\)", rest)
  if not tile or not sizes or not order:
    return sizes
  minor_first = [int(n) for n in order.split(",")]
  for axis, unit in zip(minor_first, reversed([int(n) for n in tile[1].split(",")])):
    sizes[axis] = -(-sizes[axis] // unit) * unit
  return sizes


def device_group(attributes: str) -> tuple[int, ...]:
  """The group of device 0 among the replica_groups (or source_target_pairs) of a collective.

  Three notations: lists {{0,1},{2,3}}; iota [2,4]<=[4,2]T(1,0), groups by members over a transposed count; and a mesh
  with the axes along which a group lies, mesh['a'=2,'b'=4] {'b'}.
  """
  if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
    return _ring(pairs[1])
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^ ]*)\))?\s*\{([^}]*)\}", attributes):
    return _mesh_group(*mesh.groups())
  if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
    return _iota_group(*iota.groups())
  if lists := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
    return tuple(map(int, lists[1].split(",")))
  raise ValueError(f"no replica groups in {attributes[:200]!r}")


def _ring(pairs: str) -> tuple[int, ...]:
  """Devices that a permutation leads through from device 0."""
  following = dict(tuple(map(int, pair.split(","))) for pair in re.findall(r"(\d+,\d+)", pairs))
  ring = [0]
  while (step := following.get(ring[-1])) is not None and step not in ring:
    ring.append(step)
  return tuple(ring)


def _iota_group(shape: str, sizes: str, order: str | None) -> tuple[int, ...]:
  groups = _iota(sizes, order).reshape(_numbers(shape))
  return tuple(groups[0].ravel().tolist())


def _mesh_group(axes: str, ids: str | None, along: str) -> tuple[int, ...]:
  """`along` names axes, or a part of one: 'a':(2)4 is the middle of an axis split into 2, 4 and the rest."""
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
  order = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids) if ids else None
  devices = _iota(*order.groups()) if order else np.array(_numbers(ids) if ids else range(math.prod(sizes.values())))
  parts = {name: (int(before or 1), int(size or sizes[name]))
           for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along)}
  shape, picked = [], []
  for name, size in sizes.items():
    before, middle = parts.get(name, (1, 1))
    shape += [before, middle, size // (before * middle)]
    picked += [0, slice(None), 0]
  return tuple(devices.reshape(shape)[tuple(picked)].ravel().tolist())


def _iota(sizes: str, order: str | None) -> np.ndarray:
  devices = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
  return devices.transpose(_numbers(order)) if order else devices


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(",")]
