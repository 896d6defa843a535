"""Decoding workers end when the process that they work for is killed; Grain's own would wait for it for ever."""

import functools
import multiprocessing
import os
import threading


@functools.cache
def end_with_parent() -> None:
  """From here on this process ends as soon as the one that has spawned it does; nothing in one that nobody has."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    threading.Thread(target=_wait, args=(parent,), daemon=True).start()


def _wait(parent) -> None:
  parent.join()
  os._exit(1)
