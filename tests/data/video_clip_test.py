"""Sampled frames are those of a full decode, by timestamps, whatever the file is like."""

import gc

import av
import numpy as np
import pytest

from tests.tiny_video import encode_video, numbered_frames, write_video
from vljepa_jax.data import video_clip
from vljepa_jax.data.moments import SUB_SEGMENTS, sample_moments
from vljepa_jax.data.video import VideoError
from vljepa_jax.data.video_clip import read_clip
from vljepa_jax.errors import MediaError

GOP = dict(g=12, keyint_min=12)
KINDS = {
    "h264 with B-frames": ("a.mp4", dict(codec="libx264", bf=3, **GOP)),
    "h264, one group": ("a.mp4", dict(codec="libx264", bf=2, g=250)),
    "h264, open groups": ("a.mkv", dict(codec="libx264", bf=3, **{"x264-params": "open-gop=1:keyint=12"})),
    "h264 with sound": ("a.mp4", dict(codec="libx264", sound=True, **GOP)),
    "h264, transport stream": ("a.ts", dict(codec="libx264", bf=3, **GOP)),
    "h264, fragments": (
        "a.mp4", dict(codec="libx264", bf=2, container={"movflags": "frag_keyframe+empty_moov"}, **GOP)),
    "h264, no length and no index": ("a.mkv", dict(codec="libx264", bf=2, container={"live": "1"}, **GOP)),
    "h264, no times": ("a.h264", dict(codec="libx264", bf=2, **GOP)),
    "h264 in avi": ("a.avi", dict(codec="libx264", bf=2, **GOP)),
    "mpeg4": ("a.mp4", dict(codec="mpeg4", bf=2, g=12)),
    "mpeg4 in avi": ("a.avi", dict(codec="mpeg4", g=12)),
    "mjpeg": ("a.avi", dict(codec="mjpeg", pixel="yuvj420p")),
    "vp9": ("a.webm", dict(codec="libvpx-vp9", g=12, deadline="realtime", **{"cpu-used": 8})),
    "hevc": ("a.mp4", dict(codec="libx265", **{"x265-params": "keyint=12:bframes=3:log-level=none", "preset": "fast"})),
    "av1": ("a.mp4", dict(codec="libsvtav1", g=12, preset=12)),
}


def decode_all(path):
  """Times after the first frame, the end, and pixels of every frame, by plain decoding."""
  with av.open(path) as container:
    stream = container.streams.video[0]
    usual, rows = float(1 / stream.average_rate) if stream.average_rate else 0.0, []
    for frame in container.decode(stream):
      seconds = float(frame.duration * frame.time_base) if frame.duration else usual
      rows.append((frame.time, seconds, frame.to_ndarray(format="rgb24")))
  times = [i * usual if row[0] is None else row[0] - rows[0][0] for i, row in enumerate(rows)]
  times = list(np.maximum.accumulate(times))
  return np.array(times), times[-1] + rows[-1][1], np.stack([row[2] for row in rows])


def expected(whole, moments):
  times, _, frames = whole
  return np.stack([frames[max(i for i, time in enumerate(times) if i == 0 or time <= moment + 1e-6)]
                   for moment in moments])


def check(path, whole):
  """Of the whole and of segments, in evaluation and in training."""
  end = whole[1]
  for count in (1, 3, 8, 70):
    np.testing.assert_array_equal(
        read_clip(path, count), expected(whole, (np.arange(count) + 0.5) * end / count), err_msg=str(count))
  for start, stop in ((0.0, 0.3), (1.3, 2.9), (0.45 * end, end), (0.9 * end, 100 * end)):
    length = min(stop, end) - start
    np.testing.assert_array_equal(
        read_clip(path, 4, start, stop), expected(whole, start + (np.arange(4) + 0.5) * length / 4), err_msg=str(start))
  for seed in range(3):
    moments = sample_moments(0.0, end, 5, np.random.default_rng(seed))
    np.testing.assert_array_equal(read_clip(path, 5, rng=np.random.default_rng(seed)), expected(whole, moments))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_a_full_decode(tmp_path, kind):
  name, options = KINDS[kind]
  path = encode_video(tmp_path / name, numbered_frames(60), **options)
  whole = decode_all(path)
  assert len(np.unique(whole[2].reshape(len(whole[2]), -1), axis=0)) == 60
  check(path, whole)


@pytest.mark.parametrize("name, first", [("a.mkv", 0.0), ("a.mkv", 7.3), ("a.mp4", 7.3), ("a.ts", 3.0)])
def test_a_variable_rate_and_a_late_start(tmp_path, name, first):
  gaps = np.random.default_rng(0).choice([0.04, 0.1, 0.7], 40)
  times = first + np.concatenate([[0.0], np.cumsum(gaps)])
  path = encode_video(tmp_path / name, numbered_frames(41), times, codec="libx264", bf=2, **GOP)
  whole = decode_all(path)
  np.testing.assert_allclose(whole[0], times - first, atol=2e-3)
  check(path, whole)


@pytest.mark.parametrize("size", [(33, 17), (64, 50), (100, 2)])
def test_odd_sizes(tmp_path, size):
  path = encode_video(tmp_path / "a.webm", numbered_frames(6, (max(size[0], 9), size[1])), codec="libvpx-vp9",
                      deadline="realtime")
  whole = decode_all(path)
  frames = read_clip(path, 3)
  assert frames.shape == (3, size[1], size[0], 3)
  np.testing.assert_array_equal(frames, expected(whole, (np.arange(3) + 0.5) * whole[1] / 3))


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_tags_are_applied(tmp_path, degrees):
  path = encode_video(tmp_path / "a.mp4", numbered_frames(30), codec="libx264", rotation=degrees, **GOP)
  whole = decode_all(path)
  turned = np.rot90(whole[2], degrees // 90, axes=(1, 2))
  np.testing.assert_array_equal(read_clip(path, 30), turned)
  np.testing.assert_array_equal(read_clip(path, 1, 2.0, 2.1)[0], turned[20])  # after a jump, too


def test_a_video_may_be_given_as_its_bytes(tmp_path):
  path = encode_video(tmp_path / "a.mp4", numbered_frames(40), codec="libx264", bf=2, **GOP)
  np.testing.assert_array_equal(read_clip((tmp_path / "a.mp4").read_bytes(), 5), read_clip(path, 5))
  with pytest.raises(VideoError, match="clip 7 cannot be read as a video"):
    read_clip(b"nothing", 5, name="clip 7")


def test_sampling_takes_part_after_part():
  np.testing.assert_allclose(sample_moments(2.0, 6.0, 4), [2.5, 3.5, 4.5, 5.5])
  drawn = np.stack([sample_moments(2.0, 6.0, 4, np.random.default_rng(i)) for i in range(400)])
  assert 2 <= drawn.min() < 2.1 and 5.9 < drawn.max() < 6 and (np.diff(drawn) > 0).all()
  spans = np.array([np.ptp(sample_moments(2.0, 6.0, 1000, np.random.default_rng(i))) / 4 for i in range(400)])
  assert abs(np.mean(spans > 0.995) - (1 - SUB_SEGMENTS)) < 0.1
  assert 0.49 < spans.min() < 0.55


def test_few_frames_of_a_long_video_are_cheap(tmp_path, monkeypatch):
  path = encode_video(tmp_path / "a.mp4", numbered_frames(600), codec="libx264", bf=2, **GOP)
  seen, decode = [], video_clip._Track._decode

  def counted(self, from_key):
    for frame in decode(self, from_key):
      seen.append(frame.pts)
      yield frame

  monkeypatch.setattr(video_clip._Track, "_decode", counted)
  read_clip(path, 4)
  assert len(seen) < 4 * (12 + 2) + 2
  seen.clear()
  read_clip(path, 300)
  assert len(seen) < 620, "nearby frames are reached by going on"


@pytest.mark.parametrize("write, message", [
    (lambda path: None, "there is no video .*a.mp4"),
    (lambda path: path.write_bytes(b""), "a.mp4 is empty .0 bytes."),
    (lambda path: path.write_bytes(b"not a video" * 100), "a.mp4 cannot be read as a video"),
])
def test_what_is_no_video(tmp_path, write, message):
  write(tmp_path / "a.mp4")
  with pytest.raises(VideoError, match=message):
    read_clip(tmp_path / "a.mp4", 2)


def test_a_segment_behind_the_end(tmp_path):
  path = write_video(tmp_path / "a.mp4", range(0, 200, 20))
  with pytest.raises(MediaError, match=r"a.mp4 ends after 1.00 s, but its segment begins at 2.00 s"):
    read_clip(path, 2, 2.0)


def test_damage_is_told_with_its_place(tmp_path):
  path = encode_video(tmp_path / "a.mkv", numbered_frames(40, (128, 96)), codec="ffv1", g=1)
  data = bytearray((tmp_path / "a.mkv").read_bytes())
  half = len(data) // 2
  data[half:half + 3000] = bytes(3000)
  (tmp_path / "a.mkv").write_bytes(data)
  with pytest.raises(VideoError, match="a.mkv is damaged after"):
    read_clip(path, 40)


@pytest.mark.parametrize("kind", ["a.mp4", "a.avi"])
def test_nothing_of_a_clip_waits_for_the_collector(tmp_path, kind):
  path = write_video(tmp_path / kind, range(0, 200, 20))
  read_clip(path, 2)
  gc.collect()
  gc.disable()
  try:
    read_clip(path, 2)
    assert gc.collect() == 0
  finally:
    gc.enable()
