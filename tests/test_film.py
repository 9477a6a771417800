"""Films are whole, playable and the right shape, or not there; the panel is below the picture, never over it."""

import dataclasses
import os
import struct

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from gantry.errors import GantryError
from gantry.files import TEMPORARY
from gantry.film import video
from gantry.film.overlay import OverlayState, Panel
from gantry.film.video import VideoWriter


def frames(count, width, height):
    """A white bar that walks to the right over a colour gradient, `count` × (height, width, 3)."""
    gradient = np.zeros((height, width, 3), np.uint8)
    gradient[..., 0] = np.linspace(0, 255, width)
    gradient[..., 2] = np.linspace(255, 0, height)[:, None]
    for index in range(count):
        frame = gradient.copy()
        frame[:, index * 4 : index * 4 + 4] = 255
        yield frame


def film(path, count=12, width=96, height=64, fps=30.0):
    with VideoWriter(path, fps, (width, height)) as writer:
        for frame in frames(count, width, height):
            writer.add(frame)
        assert writer.frames == count
    return path


def facts(path):
    """What the encoder's own reader says about a film."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    reader.close()
    count, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    return meta, count


def boxes(path):
    """Names of an MP4's top-level boxes, in order."""
    content, position, names = path.read_bytes(), 0, []
    while position < len(content):
        length, name = struct.unpack(">I4s", content[position : position + 8])
        names.append(name.decode())
        position += length if length > 1 else struct.unpack(">Q", content[position + 8 : position + 16])[0]
    return names


# --- MP4 ------------------------------------------------------------------------------------------------------------


def test_mp4_size_rate_and_pixel_format(tmp_path):
    meta, count = facts(film(tmp_path / "film.mp4", count=12, width=98, height=66, fps=25))
    assert count == 12
    assert meta["source_size"] == (98, 66)
    assert meta["fps"] == 25
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")


def test_mp4_index_is_before_pictures(tmp_path):
    names = boxes(film(tmp_path / "film.mp4"))
    assert names.index("moov") < names.index("mdat")


def test_mp4_frames_match_input(tmp_path):
    path = film(tmp_path / "film.mp4", count=12)
    shown = iio.imread(path).astype(int)
    for picture, drawn in zip(shown, frames(12, 96, 64), strict=True):
        assert np.mean(np.abs(picture - drawn)) < 8


def test_mp4_odd_sides_are_padded(tmp_path):
    path = film(tmp_path / "film.mp4", count=3, width=97, height=65)
    meta, count = facts(path)
    assert meta["source_size"] == (98, 66)
    assert count == 3
    first, drawn = iio.imread(path)[0].astype(int), next(frames(1, 97, 65)).astype(int)
    assert np.mean(np.abs(first[:65, :97] - drawn)) < 8
    assert first[65].mean() < 60


# --- GIF ------------------------------------------------------------------------------------------------------------


def test_gif_is_animated_and_loops(tmp_path):
    path = film(tmp_path / "film.gif", count=10, fps=20)
    with Image.open(path) as image:
        assert image.is_animated
        assert image.n_frames == 10
        assert image.size == (96, 64)
        assert image.info["loop"] == 0
        assert image.info["duration"] == 50


def test_gif_frames_match_input(tmp_path):
    path = film(tmp_path / "film.gif", count=10, fps=20)
    for picture, drawn in zip(iio.imread(path), frames(10, 96, 64), strict=True):
        assert np.mean(np.abs(picture[..., :3].astype(int) - drawn)) < 16


def test_film_clears_what_killed_ones_left_and_nothing_else(tmp_path):
    for name in ("old.mp4", "old.gif"):
        (tmp_path / f"{TEMPORARY}{name}").write_bytes(b"half")
    (tmp_path / f"{TEMPORARY}old.gif.parts").mkdir()
    (tmp_path / f"{TEMPORARY}old.gif.parts" / "frames.mkv").write_bytes(b"half")
    with VideoWriter(tmp_path / "a.gif", 10, (16, 16)) as first:
        assert not list(tmp_path.glob("*old*"))
        first.add(np.zeros((16, 16, 3), np.uint8))
        with VideoWriter(tmp_path / "b.mp4", 10, (16, 16)) as second:
            second.add(np.zeros((16, 16, 3), np.uint8))
    assert sorted(os.listdir(tmp_path)) == ["a.gif", "b.mp4"]


def test_gif_leaves_no_intermediate_files(tmp_path):
    film(tmp_path / "film.gif")
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.gif"]


# --- whole or not at all --------------------------------------------------------------------------------------------


def draw_and_fail(path):
    with VideoWriter(path, 30, (96, 64)) as writer:
        writer.add(next(frames(1, 96, 64)))
        raise FileNotFoundError("the drawing's own")


def draw_with_a_dying_encoder(path):
    with VideoWriter(path, 30, (96, 64)) as writer:
        writer._process.kill()
        writer._process.wait()
        for frame in frames(20, 96, 64):
            writer.add(frame)


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_error_while_drawing_leaves_no_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="the drawing's own"):
        draw_and_fail(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_dead_encoder_keeps_older_film(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"older")
    with pytest.raises(GantryError, match="the video encoder stopped") as error:
        draw_with_a_dying_encoder(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_error(tmp_path, monkeypatch):
    # The device that is always full stands for the disk.
    monkeypatch.setattr(video, "_mp4_arguments", lambda path: ["-c:v", "rawvideo", "-f", "rawvideo", "/dev/full"])
    with pytest.raises(GantryError, match="disk is full"):
        film(tmp_path / "film.mp4", count=12)
    assert list(tmp_path.iterdir()) == []


def test_film_without_frames_is_refused(tmp_path):
    with pytest.raises(GantryError, match="no frame was added"), VideoWriter(tmp_path / "film.mp4", 30, (96, 64)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GantryError, match="cannot write"), VideoWriter(tmp_path / "file" / "film.mp4", 30, (96, 64)):
        pass


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(GantryError, match=r"\.mp4 or \.gif"):
        VideoWriter(tmp_path / "film.avi", 30, (96, 64))


@pytest.mark.parametrize(("fps", "size"), [(0, (96, 64)), (float("nan"), (96, 64)), (30, (0, 64))])
def test_invalid_film_settings_are_refused(tmp_path, fps, size):
    with pytest.raises(GantryError):
        VideoWriter(tmp_path / "film.mp4", fps, size)


@pytest.mark.parametrize("frame", [np.zeros((64, 95, 3), np.uint8), np.zeros((64, 96, 3))])
def test_wrong_frame_shape_or_type_is_refused(tmp_path, frame):
    with pytest.raises(ValueError, match="a frame is"), VideoWriter(tmp_path / "film.mp4", 30, (96, 64)) as writer:
        writer.add(frame)
    assert list(tmp_path.iterdir()) == []


# --- the panel ------------------------------------------------------------------------------------------------------

GREEN, RED, ORANGE = (92, 200, 140), (236, 96, 92), (250, 166, 62)


def state(**changes):
    settings = {
        "time": 3.5,
        "score": 412.0,
        "terms": {"upright": 0.9, "centered": 0.5, "small control": 1.0},
        "action": np.array([0.5]),
        "title": "Cart-pole",
    }
    return OverlayState(**(settings | changes))


def panel(width=480, height=360, **changes):
    contents = state(**changes)
    return Panel(width, height, contents).draw(contents)


def colored(image, color):
    """The mask (height, width) of pixels of about a color."""
    return np.all(np.abs(image.astype(int) - color) < 25, axis=2)


@pytest.mark.parametrize(("width", "height"), [(480, 360), (640, 480), (1920, 1080), (160, 120), (64, 48)])
def test_panel_is_below_the_picture(width, height):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    below = Panel(width, height, state())
    film = below.below(picture, state())
    assert film.shape == (height + below.height, width, 3)
    assert np.array_equal(film[:height], picture)
    assert below.height % 2 == 0
    assert below.height <= 0.4 * height + 1
    assert (below.height > 0) == (width > 64)


def test_panel_size_is_proportional_to_the_film():
    small, large = Panel(480, 360, state()), Panel(1920, 1440, state())
    assert large.height == pytest.approx(4 * small.height, rel=0.1)


def test_term_bar_length_is_the_terms_size():
    none, half, full, beyond = (colored(panel(terms={"upright": v}), GREEN).sum() for v in (0.0, 0.5, 1.0, 3.0))
    assert none == 0
    assert half == pytest.approx(full / 2, rel=0.08)
    assert beyond == full > 100


def test_negative_terms_have_red_bars():
    paid, half, full = (panel(terms={"bump": value}) for value in (0.5, -0.5, -2.0))
    assert colored(paid, RED).sum() == 0
    assert colored(half, GREEN).sum() == 0
    assert colored(half, RED).sum() == pytest.approx(colored(paid, GREEN).sum(), rel=0.01)
    assert colored(full, RED).sum() > 1.8 * colored(half, RED).sum()
    assert colored(panel(terms={"time": -0.001}), RED).any()


def test_action_bar_starts_at_zero():
    def columns(action):
        drawn = panel(action=np.array([action]), low=np.array([-2.0]), high=np.array([2.0]))
        return np.nonzero(colored(drawn, ORANGE))[1]

    left, right = columns(-1.0), columns(1.0)
    assert left.max() < right.min()
    assert right.size == pytest.approx(left.size, rel=0.15)
    assert columns(0.0).size == 0
    assert columns(2.0).size == pytest.approx(2 * right.size, rel=0.15)


@pytest.mark.parametrize("names", [(), tuple(f"joint {index}, a long explanation" for index in range(7))])
def test_panel_with_many_bars_draws_each(names):
    crowded = {"terms": {f"a rather long name {index}": 0.5 for index in range(12)}, "action": np.ones(7)}
    drawn = panel(action_names=names, **crowded)
    for color, count in ((GREEN, 12), (ORANGE, 7)):
        rows = colored(drawn, color).any(axis=1)
        assert np.sum(np.diff(np.concatenate([[0], rows.astype(int)])) == 1) == count
    assert drawn.shape[0] <= 0.4 * 360


def test_names_are_shortened_at_their_comma():
    names = ("joint 1, increment of the setpoint", "joint 2, increment of the setpoint")
    short = panel(action=np.zeros(2), action_names=("joint 1", "joint 2"))
    assert np.array_equal(panel(action=np.zeros(2), action_names=names), short)


def test_shares_stand_in_place_of_the_score():
    contents = state(shares={"coverage": 0.5})
    below = Panel(480, 360, contents)
    first, worse = (below.draw(dataclasses.replace(contents, score=score)) for score in (412.0, -80.0))
    assert np.array_equal(first, worse)
    assert not np.array_equal(first, below.draw(dataclasses.replace(contents, shares={"coverage": 0.6})))


def test_attention_strip_is_tallest_at_the_step_looked_at_most():
    weights = np.array([0.0, 0.1, 0.6, 0.3])
    heights = colored(panel(attention=weights), (120, 180, 255)).sum(axis=0)
    lowest, middle, tallest = np.unique(heights[heights > 0])
    assert (lowest, middle) == pytest.approx((tallest / 6, tallest / 2), abs=1)
    assert np.argmax(heights == lowest) < np.argmax(heights == tallest) < np.argmax(heights == middle)
    assert np.argmax(heights > 0) > 480 / 3  # nothing at the first step
    without, small = panel(), Panel(160, 60, state(attention=weights))
    assert without.shape[0] < panel(attention=weights).shape[0] <= 0.4 * 360 + 1
    assert small.height == Panel(160, 60, state()).height


def test_panel_omits_missing_values():
    bare = OverlayState(time=1.0)
    below = Panel(480, 360, bare)
    drawn = below.draw(bare)
    assert not colored(drawn, GREEN).any()
    assert not colored(drawn, ORANGE).any()
    assert below.height < Panel(480, 360, state()).height
    assert not np.array_equal(drawn, below.draw(OverlayState(time=2.0)))
    assert not np.array_equal(drawn, below.draw(OverlayState(time=1.0, choice="move north")))
