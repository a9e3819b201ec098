"""Rendering of decisions, and the video files."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from snn_rl.reports import video


def test_mp4_is_h264_that_browsers_play_while_loading(tmp_path):
    path = tmp_path / "play.mp4"
    rows, columns = np.mgrid[:63, :97]
    picture = np.stack([3 * rows, 2 * columns, rows + columns], axis=-1).astype(np.uint8)
    video.write_mp4(path, [np.roll(picture, i, 1) for i in range(20)], 25)
    with av.open(path) as written:
        (stream,) = written.streams
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        frames = [frame.to_ndarray(format="rgb24") for frame in written.decode(stream)]
    assert len(frames) == 20 and frames[0].shape == (62, 96, 3)
    for i in (0, 19):
        assert np.abs(frames[i] - np.roll(picture, i, 1)[:62, :96].astype(float)).mean() < 4
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_gif_shows_every_picture(tmp_path):
    path = tmp_path / "play.gif"
    pictures = np.zeros((5, 40, 60, 3), np.uint8)
    pictures[:, 10:30, 20:40] = (200, 40, 90)
    for i in (1, 2, 4):  # picture 3 equals the one before
        pictures[i:, 5 * i : 5 * i + 4, :9] = (10 * i, 250, 30)
    video.write_gif(path, iter(pictures), 20)
    with Image.open(path) as written:
        assert written.size == (60, 40) and written.info["loop"] == 0
        for i, picture in enumerate(pictures):
            written.seek(i)
            assert written.info["duration"] == 50
            shown = np.asarray(written.convert("RGB")).astype(int)
            assert np.abs(shown - picture).max() < 16
        assert written.n_frames == 5


def test_gif_is_written_picture_by_picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    sizes = []

    def pictures():
        for i in range(60):
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
            yield np.roll(noise, i, 0)

    video.write_gif(tmp_path / "play.gif", pictures(), 30)
    assert sizes[-1] > 0.8 * (tmp_path / "play.gif").stat().st_size


@pytest.mark.parametrize("where", [(0, 0, 0), (5, 3, 8), (63, 8, 8)])
def test_spike_is_drawn_at_its_neuron(where):
    activity = np.zeros((64, 9, 9), np.float32)
    activity[where] = 1.0
    (tiling,) = video.arrange((activity.shape,), 640, 160)
    picture = video.tile(activity, tiling)
    assert picture.shape == (tiling.height, tiling.width, 3)
    number, y, x = where
    row, column = divmod(number, tiling.columns)
    center = (np.array([row * 10 + y, column * 10 + x]) + 0.5) * tiling.scale
    golden = np.argwhere((picture == video.SPIKE).all(-1))
    np.testing.assert_allclose(golden.mean(0) + 0.5, center, atol=1.0)


def test_brightness_grows_with_the_spikes_of_a_unit():
    (tiling,) = video.arrange(((4,),), 400, 100)
    picture = video.tile(np.array([0.0, 0.2, 0.6, 1.0], np.float32), tiling)
    red = picture[50, 50::100, 0].astype(int)
    assert list(red) == sorted(set(red))


@pytest.mark.parametrize("width", [300, 432, 600])
def test_stacked_layers_fit_the_height(width):
    shapes = ((32, 20, 20), (64, 9, 9), (64, 7, 7), (512,))
    tilings = video.arrange(shapes, width, 488)
    assert sum(t.height for t in tilings) <= 488
    assert {t.width for t in tilings} == {width}
    for shape, tiling in zip(shapes, tilings, strict=True):
        assert shape[0] % tiling.columns == 0


def test_failed_recording_keeps_the_previous_video(tmp_path):
    path = tmp_path / "play.mp4"
    picture = np.zeros((64, 64, 3), np.uint8)
    video.write_mp4(path, [picture] * 3, 30)

    def broken():
        yield picture
        raise RuntimeError("the episode failed")

    with pytest.raises(RuntimeError):
        video.write_mp4(path, broken(), 30)
    with av.open(path) as kept:
        assert sum(1 for _ in kept.decode(video=0)) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["play.mp4"]


def test_two_commands_can_record_the_same_video(tmp_path):
    path = tmp_path / "play.mp4"
    picture = np.zeros((64, 64, 3), np.uint8)

    def interrupted():
        yield picture
        video.write_mp4(path, [picture] * 2, 30)  # another command starts and ends meanwhile
        yield from [picture] * 4

    video.write_mp4(path, interrupted(), 30)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 5
    assert list(tmp_path.iterdir()) == [path]


def test_q_closes_the_window(monkeypatch):
    shown = []
    window = SimpleNamespace(
        imshow=lambda title, picture: shown.append(picture),
        waitKey=lambda ms: ord("q") if len(shown) == 2 else -1,
        destroyAllWindows=lambda: None,
    )
    monkeypatch.setattr(video, "opencv", lambda: window)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    video.show([red] * 5, 30, "title")
    assert len(shown) == 2
    assert shown[0][0, 0, 2] == 255  # OpenCV expects BGR


def test_unreachable_display_counts_as_missing(monkeypatch):
    monkeypatch.setenv("DISPLAY", "localhost:99.0")
    assert not video.has_display()
