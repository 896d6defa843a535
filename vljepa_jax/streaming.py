"""A model on a stream: frames in, events out.

  session = StreamSession(Windows(model, fps=2), selective.Online(), nearest(model, texts))
  for frames in camera:                    # (n, H, W, 3) uint8, n frames of 1 / fps seconds
    for event in session.push(frames):
      print(event.start, event.end, event.text, event.score)
  session.close()

Memory does not grow with the stream, unless the policy is `selective.Ward`.
"""

from collections.abc import Callable, Sequence
import collections
import dataclasses
import io

import numpy as np
from PIL import Image

from vljepa_jax import api
from vljepa_jax.model.presets import MobileNetV2Config
from vljepa_jax.selective import Policy, Sample, Segment

JPEG_QUALITY = 80  # of key frames

# (n, E) embeddings of unit length -> n texts with their cosine similarity.
Decode = Callable[[np.ndarray], Sequence[tuple[str, float]]]


@dataclasses.dataclass(frozen=True)
class Event:
  """One decoded stretch of a stream.

  Attributes:
    time, start, end: seconds; of the decode, and of what it stands for.
    text: what it shows.
    score: cosine similarity of the decoded embedding and the text.
    picture: its key frame as the model saw it, a JPEG.
  """

  time: float
  start: float
  end: float
  text: str
  score: float
  picture: bytes


def nearest(model: api.Model, texts: Sequence[str]) -> Decode:
  """Decodes by the nearest of some texts."""
  bank = model.encode_text(texts)

  def decode(embeds: np.ndarray) -> list[tuple[str, float]]:
    scores = embeds @ bank.T
    best = np.argmax(scores, axis=1)
    return [(texts[i], float(row[i])) for i, row in zip(best, scores)]

  return decode


def spelled(model: api.Model, beam: int = 1) -> Decode:
  """Decodes by the model's Y-decoder; the score compares the embedding with that of the text it became."""

  def decode(embeds: np.ndarray) -> list[tuple[str, float]]:
    texts = model.decode(embeds, beam=beam)
    # An embedding may become an empty text, which has none itself.
    found = [i for i, text in enumerate(texts) if text]
    scores = np.zeros(len(texts))
    if found:
      scores[found] = np.sum(model.encode_text([texts[i] for i in found]) * embeds[found], axis=1)
    return list(zip(texts, scores.tolist()))

  return decode


class Windows:
  """Embeddings of sliding windows over frames.

  A window is as many frames as the model was trained on. An encoder that looks at every frame alone (MobileNetV2, or
  a model of one frame) encodes each once, and none that no window holds; one whose tokens see the whole window
  (V-JEPA 2) encodes a frame again in every window that holds it: `recomputed` times. `predict` runs once for
  every window.

  Args:
    model: trained.
    fps: frames a second of what is pushed.
    stride: frames from one window to the next.
    query: what to ask; None for what there is to see.

  Attributes:
    recomputed: how often every frame is encoded.
  """

  def __init__(self, model: api.Model, fps: float, stride: int = 1, query: str | None = None):
    if not fps > 0 or stride < 1:
      raise ValueError(f"fps must be positive and the stride at least 1, not {fps} and {stride}")
    self.fps = fps
    self.length = model.config.data.frames
    self._model, self._stride, self._query = model, stride, query
    self._preprocess = api.make_preprocess(model.config)
    towers = model.forward.config
    frame_by_frame = isinstance(towers.x_encoder, MobileNetV2Config) and towers.pooling[0] == 1
    self._alone = self.length == 1 or frame_by_frame
    self.recomputed = 1.0 if self._alone else max(1.0, self.length / stride)
    # Of the newest frames: tokens, or pixels where the encoder needs the whole window; and the pixels.
    self._ring: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque(maxlen=self.length)
    self._seen = 0

  @property
  def seconds(self) -> float:
    """Length of the stream so far."""
    return self._seen / self.fps

  def push(self, frames: np.ndarray) -> list[Sample]:
    """Samples of the windows that are complete with these frames.

    Args:
      frames: (n, H, W, 3) uint8, n may be 0.
    """
    batch = self._model.config.eval.batch_size  # a long push needs no more memory than a batch
    starts = range(0, len(frames), batch)
    return [sample for start in starts for sample in self._push(frames[start:start + batch])]

  def close(self) -> list[Sample]:
    """Of a stream that is shorter than a window, the one sample, with the last frame repeated."""
    if not 0 < self._seen < self.length:
      return []
    window = [*self._ring, *[self._ring[-1]] * (self.length - self._seen)]
    return self._samples([self.seconds / 2], [window])

  def _push(self, frames: np.ndarray) -> list[Sample]:
    numbers = range(self._seen, self._seen + len(frames))
    self._seen += len(frames)
    needed = [i for i in numbers if i % self._stride < self.length]
    if not needed:
      return []
    pixels = api.prepare_pictures([frames[i - numbers.start] for i in needed], self._preprocess)
    parts = self._model.encode_prepared(pixels[:, None]) if self._alone else pixels
    times, windows = [], []
    for i, part in zip(needed, zip(parts, pixels)):
      self._ring.append(part)
      first = i + 1 - self.length
      if first >= 0 and first % self._stride == 0:
        times.append((first + self.length / 2) / self.fps)
        windows.append(list(self._ring))
    return self._samples(times, windows) if windows else []

  def _samples(self, times: Sequence[float], windows: Sequence[list[tuple[np.ndarray, np.ndarray]]]) -> list[Sample]:
    parts = np.array([[part for part, _ in window] for window in windows])
    visual = parts.reshape(len(parts), -1, parts.shape[-1]) if self._alone else self._model.encode_prepared(parts)
    embeds = self._model.predict(visual, self._query)
    pictures = [_jpeg(window[self.length // 2][1]) for window in windows]
    return [Sample(*parts) for parts in zip(times, embeds, pictures, strict=True)]


def _jpeg(pixels: np.ndarray) -> bytes:
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
  return stream.getvalue()


class StreamSession:
  """Follows one stream and tells what happens.

  An event comes when its segment is over: with `selective.Online` within `window` samples of the change, with
  `selective.Uniform` at the next sample, with `selective.Ward` at the end of the stream.

  Args:
    windows: gives the embeddings.
    policy: says when to decode; see `selective`.
    decode: makes texts of embeddings: `nearest`, `spelled`, or a function of the caller's.
    pooling: what is decoded of a segment, "mean" or "point".
    watch: called for every window with its time, the cosine similarity to the window before (None at first), and the
      one to the mean of the open segment (None where the policy keeps none).
  """

  def __init__(
      self,
      windows: Windows,
      policy: Policy,
      decode: Decode,
      pooling: str = "mean",
      watch: Callable[[float, float | None, float | None], None] | None = None,
  ):
    self._windows, self._policy, self._decode, self._pooling = windows, policy, decode, pooling
    self._watch = watch
    self._before: np.ndarray | None = None

  @property
  def seconds(self) -> float:
    """Length of the stream so far."""
    return self._windows.seconds

  def push(self, frames: np.ndarray) -> list[Event]:
    """Events that end with these frames.

    Args:
      frames: (n, H, W, 3) uint8, each 1 / fps seconds after the other; n may be 0.

    Raises:
      ValueError: the frames are of another kind.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
      raise ValueError(f"frames must be an (n, H, W, 3) uint8 array, not {frames.shape} {frames.dtype}")
    return self._events(self._follow(self._windows.push(frames)))

  def close(self) -> list[Event]:
    """Ends the stream: events of what was still open."""
    return self._events(self._follow(self._windows.close()) + self._policy.close(self.seconds))

  def _follow(self, samples: Sequence[Sample]) -> list[Segment]:
    segments = []
    for sample in samples:
      if self._watch:
        others = (self._before, self._policy.mean())
        self._watch(sample.time, *(None if other is None else float(other @ sample.embed) for other in others))
      self._before = sample.embed
      segments += self._policy.push(sample)
    return segments

  def _events(self, segments: Sequence[Segment]) -> list[Event]:
    if not segments:
      return []
    decoded = self._decode(np.stack([segment.embed(self._pooling) for segment in segments]))
    return [
        Event(segment.decode_time(self._pooling), segment.start, segment.end, text, float(score), segment.key.picture)
        for segment, (text, score) in zip(segments, decoded, strict=True)]
