"""A data set and how it is read, where its name does not say all."""

import dataclasses

from vljepa_jax.data.clips import ClipSource


@dataclasses.dataclass(frozen=True)
class DataSet:
  """What stands in place of the name of a data set in a recipe.

  Attributes:
    path: name, folder or manifest, as `open_source` takes it.
    fields: of a TFDS folder with names of its own, pairs of our name (`data/tfds_clips.py`) and its name.
    queries: pairs of a kind of question and the wordings that are used in place of those in the data; the first one
      is that of evaluation.
  """

  path: str
  fields: tuple[tuple[str, str], ...]
  queries: tuple[tuple[str, tuple[str, ...]], ...]

  def __str__(self) -> str:
    return self.path


def with_queries(source: ClipSource, queries: tuple[tuple[str, tuple[str, ...]], ...]) -> ClipSource:
  """The source with other wordings of its questions, by kind; ValueError for a kind that it does not have."""
  pools = dict(queries)
  for kind, wordings in queries:
    if kind not in source.kinds:
      has = f"has {', '.join(source.kinds)}" if source.kinds else "has no questions"
      raise ValueError(f"queries are given for the kind {kind!r}, but {source.name} {has}")
    if not wordings or not all(wording.strip() for wording in wordings):
      raise ValueError(f"the queries for the kind {kind!r} of {source.name} are empty")
  reworded = lambda question: dataclasses.replace(question, queries=pools.get(question.kind, question.queries))
  return source.with_records([
      dataclasses.replace(record, questions=tuple(map(reworded, record.questions))) for record in source.records])
