"""The functions AutoGaze's users import: `read_video_pyav`, `transform_video_for_pytorch`."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from autogaze.datasets.video_utils import read_video_pyav, transform_video_for_pytorch
from autogaze.video.reader import Video


def test_read_by_number(plain):
    frames = np.stack([frame.pixels for frame in Video(plain).frames()])
    with av.open(str(plain)) as container:
        for indices in ([0, 1, 2], [7, 3, 3, 19], np.array([5])):
            read = read_video_pyav(container=container, indices=indices)
            np.testing.assert_array_equal(read, frames[list(indices)])


@pytest.mark.parametrize(
    ("indices", "message"), [([0, 20], "frame 20 .* 20 frames"), ([-1], "got -1"), ([], "no frame")]
)
def test_read_outside(plain, indices, message):
    with av.open(str(plain)) as container, pytest.raises(ValueError, match=message):
        read_video_pyav(container, indices)


class Processor:
    """Looks like an image processor of transformers."""

    def preprocess(self, images, return_tensors):
        values = [torch.from_numpy(image).permute(2, 0, 1)[:, :32, :32] / 255 for image in images]
        return {"pixel_values": torch.stack(values)}

    def __call__(self, images, **arguments):
        return self.preprocess(images, **arguments)


def test_transform_with_an_image_processor(picture):
    video = np.stack([picture(number) for number in range(4)])
    values = transform_video_for_pytorch(video, Processor())
    expected = torch.from_numpy(video[:, :32, :32]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("form", ["attribute", "key", "list"])
@pytest.mark.parametrize("name", ["frames", "video", "x"])
def test_transform_with_a_function_of_the_list_of_frames(form, name, picture):
    """As the published `VideoFolder` calls it: whatever its argument is called."""
    seen = []

    def made(frames):
        assert isinstance(frames, list)
        seen.append(len(frames))
        values = np.stack([frame[:32, :32].transpose(2, 0, 1) / 255 for frame in frames])
        nested = [list(values)] if form == "list" else values
        return {"pixel_values": nested} if form == "key" else SimpleNamespace(pixel_values=nested)

    functions = {
        "frames": lambda frames: made(frames),
        "video": lambda video: made(video),
        "x": lambda x: made(x),
    }
    video = np.stack([picture(number) for number in range(4)])
    values = transform_video_for_pytorch(video, functions[name])
    wanted = torch.from_numpy(video[:, :32, :32]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(values, wanted, check_dtype=False)
    assert seen == [4]


def test_a_function_of_an_array_that_returns_pixel_values_is_one_of_the_list(picture):
    video = np.stack([picture(number) for number in range(4)])

    def transform(x):
        return SimpleNamespace(pixel_values=np.asarray(x).astype(np.float32) / 255)

    values = transform_video_for_pytorch(video, transform)
    torch.testing.assert_close(values, torch.from_numpy(video).permute(0, 3, 1, 2) / 255)


def test_the_error_of_a_function_of_images_is_its_own(picture):
    calls = []

    def transform(image):
        calls.append(image)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        transform_video_for_pytorch([picture(0)], transform)


def test_transform_with_functions(picture):
    video = [picture(number) for number in range(3)]

    def processor(images, return_tensors):
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return {"pixel_values": stacked[None] / 255}

    expected = torch.from_numpy(np.stack(video)).permute(0, 3, 1, 2)
    torch.testing.assert_close(transform_video_for_pytorch(video, processor), expected / 255)
    by_image = transform_video_for_pytorch(video, lambda image: image.resize((32, 16)))
    assert by_image.shape == (3, 3, 16, 32)
    by_array = transform_video_for_pytorch(video, lambda image: np.asarray(image) / 255)
    torch.testing.assert_close(by_array.float(), expected / 255)
    assert torch.equal(transform_video_for_pytorch(np.stack(video)), expected.float())


def test_transform_of_the_wrong_shape(picture):
    with pytest.raises(ValueError, match=r"should give \(2, 3, height, width\)"):
        transform_video_for_pytorch([picture(0), picture(1)], lambda image: torch.zeros(5))
    with pytest.raises(ValueError, match="no frames"):
        transform_video_for_pytorch([])
