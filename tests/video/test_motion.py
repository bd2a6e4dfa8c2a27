"""Motion vectors: where a square moves, what is new, and which codecs cannot tell."""

import gc

import numpy as np
import pytest

from autogaze.errors import GeometryError, VideoError
from autogaze.source import TileGrid
from autogaze.video.motion import NEW_CONTENT, MotionField, block_lengths, motion_map
from autogaze.video.reader import Video
from autogaze.video.tiling import plan_tiles

SIDE = 128


@pytest.fixture(scope="module")
def moving() -> list[np.ndarray]:
    """A textured square moves right through the upper half of a still, textured background."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(60, 120, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    background = blocks.repeat(8, axis=0).repeat(8, axis=1)
    square = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    frames = []
    for number in range(12):
        frame = background.copy()
        frame[16:48, 8 + 4 * number : 40 + 4 * number] = square
        frames.append(frame)
    return frames


CODECS = {
    "libx264": "mp4",
    "mpeg4": "mp4",
    "mpeg2video": "mpg",
    "mpeg1video": "mpg",
    "flv": "flv",
    "msmpeg4": "avi",
    "msmpeg4v2": "avi",
    "wmv1": "avi",
    "wmv2": "avi",
}


def test_pictures_do_not_wait_for_the_garbage_collector(folder, encode, moving):
    path = encode(folder / "freed.mp4", moving, fps=25)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert len(list(Video(path).frames(motion=True))) == len(moving)
        gc.collect()
        assert not {"VideoFrame", "MotionVectors"} & {type(one).__name__ for one in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("codec", CODECS)
def test_activity_is_where_the_square_moves(folder, encode, moving, codec):
    path = encode(folder / f"moving_{codec}.{CODECS[codec]}", moving, codec=codec, g="100", fps=25)
    grid = plan_tiles(SIDE, SIDE, SIDE)
    maps = [motion_map(frame.motion, grid, 8)[0] for frame in Video(path).frames(motion=True)]
    assert (maps[0] == NEW_CONTENT).all()  # a key frame, and the first one anyway
    # Some encoders put in a key frame when they feel like it.
    moved = [number for number in range(1, 12) if (maps[number] < NEW_CONTENT).any()]
    assert len(moved) >= 8
    for number in moved:
        cells = maps[number]
        assert cells.shape == (8, 8)
        left = 8 + 4 * number
        # Under the square, which moved 4 pixels; encoders may take a vector from elsewhere.
        assert cells[1:3, left // 16 : (left + 32) // 16].max() >= 2
        # All else that moved is around the square, or where it was before.
        assert cells[4:].max() <= 1
        assert (cells[:, (left + 32) // 16 + 2 :] <= 1).all()


def test_vectors_do_not_change_with_threads(folder, encode, moving, monkeypatch):
    from av.video.codeccontext import VideoCodecContext

    path = encode(folder / "threads.mp4", moving, g="5")
    threaded = [frame.motion.lengths for frame in Video(path).frames(motion=True)]

    from autogaze.video import container as module

    make = module._decoder

    def single(stream, motion) -> VideoCodecContext:
        decoder = make(stream, motion)
        decoder.thread_type = "NONE"
        return decoder

    monkeypatch.setattr(module, "_decoder", single)
    alone = [frame.motion.lengths for frame in Video(path).frames(motion=True)]
    np.testing.assert_array_equal(np.stack(threaded), np.stack(alone))


def test_motion_of_frames_left_out_is_added(folder, encode, moving):
    video = Video(encode(folder / "skipped.mp4", moving, g="100"))
    every = [frame.motion.lengths for frame in video.frames(motion=True)]
    some = [frame.motion.lengths for frame in video.frames(motion=True, fps=5.0)]
    assert len(some) == 6
    np.testing.assert_allclose(some[2], np.minimum(every[3] + every[4], NEW_CONTENT), rtol=1e-5)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_motion_turns_with_the_frame(folder, encode, moving, degrees):
    plain = Video(encode(folder / "upright.mp4", moving, g="100"))
    turned = Video(encode(folder / f"turned{degrees}.mp4", moving, g="100", rotation=degrees))
    grid = plan_tiles(SIDE, SIDE, SIDE)
    for one, other in zip(plain.frames(motion=True), turned.frames(motion=True), strict=True):
        expected = np.rot90(motion_map(one.motion, grid, 8)[0].numpy(), degrees // 90)
        np.testing.assert_allclose(motion_map(other.motion, grid, 8)[0].numpy(), expected)


@pytest.mark.parametrize(
    ("codec", "name"), [("libvpx-vp9", "x.webm"), ("ffv1", "x.mkv"), ("mjpeg", "x.avi")]
)
def test_codecs_without_vectors_say_so(folder, encode, codec, name):
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    video = Video(encode(folder / name, codec=codec, pixel_format=pixel_format))
    with pytest.raises(VideoError, match=rf"{video.info.codec} .*another selector"):
        video.frames(motion=True)


def test_images_have_no_vectors(folder, picture):
    from PIL import Image

    Image.fromarray(picture(0)).save(folder / "motionless.png")
    with pytest.raises(VideoError, match=r"png .*another selector"):
        Video(folder / "motionless.png").frames(motion=True)


def vectors(*rows):
    names = ("w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
    kinds = ("u1", "u1", "i2", "i2", "i4", "i4", "u2")
    return np.array(list(rows), dtype=list(zip(names, kinds, strict=True)))


def test_block_lengths_by_hand():
    lengths = block_lengths(
        vectors(
            (16, 16, 8, 8, 12, 16, 4),  # 5 pixels, over blocks (0..1, 0..1)
            (8, 8, 20, 4, 0, 0, 4),  # still, block (0, 2)
            (8, 16, 28, 8, 4, 0, 2),  # 2 pixels, blocks (0..1, 3)
            (8, 16, 28, 8, 0, 8, 2),  # and 4 pixels from another reference
            (16, 16, 8, 24, 0, 0, 4),  # hangs over the lower border
        ),
        width=36,
        height=20,
    )
    new = NEW_CONTENT
    np.testing.assert_allclose(
        lengths, [[5, 5, 0, 3, new], [5, 5, new, 3, new], [0, 0, new, new, new]]
    )


def test_cells_weigh_blocks_by_area():
    field = MotionField(
        np.array([[0, 4], [8, 12]], dtype=np.float32), 12, 16
    )  # blocks 8 and 4 wide
    whole = TileGrid(12, 16, 1, 1, 24, 24, 24)
    assert motion_map(field, whole, 1).item() == pytest.approx((8 * 4 + 4 * 8) / 12)
    padded = TileGrid(12, 16, 1, 1, 24, 12, 16)
    cells = motion_map(field, padded, 3)[0].numpy()  # cells of 8 pixels, at native size
    np.testing.assert_allclose(cells, [[0, 4, 0], [8, 12, 0], [0, 0, 0]], atol=1e-6)


def test_motion_of_another_size_is_refused():
    field = MotionField(np.zeros((2, 2), dtype=np.float32), 16, 16)
    with pytest.raises(GeometryError, match=r"16 x 16 .* 32 x 16"):
        motion_map(field, plan_tiles(32, 16, 16), 1)
    with pytest.raises(GeometryError, match="at least 1 cell"):
        motion_map(field, plan_tiles(16, 16, 16), 0)
