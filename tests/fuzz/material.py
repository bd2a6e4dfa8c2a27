"""Right inputs, which cases change."""

import json
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

import autogaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.video_mae import save_video_mae
from autogaze.reconstruction.video_mae.configuration import VideoMAEConfig
from autogaze.reconstruction.video_mae.modeling import VideoMAE
from tests.clips import make_video, moving_square
from tests.models.autogaze.tiny import tiny_model
from tests.training.tiny import VIDEO_MAE

MAE = {**VIDEO_MAE["recon_model_config"], "scales": "32+64"}
VIDEOS = ("a.mp4", "a.mkv", "a.ts", "a.gif", "a.webp", "a.png", "a.jpg", "a.tiff", "a.avi")


@dataclass(frozen=True)
class Material:
    """Right inputs, made once in a folder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Material":
        make_video(folder / "a.mp4", 8, 64, 64)
        make_video(folder / "a.mkv", 6, 96, 64)
        make_video(folder / "a.ts", 6, 64, 64)
        frames = [Image.fromarray(frame) for frame in moving_square(4, 48, 48)]
        frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=100)
        frames[0].save(folder / "a.webp", save_all=True, append_images=frames[1:])
        frames[0].save(folder / "a.png")
        frames[0].save(folder / "a.jpg")
        frames[0].save(folder / "a.tiff")
        with av.open(str(folder / "a.avi"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
            for frame in frames:
                for packet in stream.encode(av.VideoFrame.from_image(frame)):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        pyramid = PatchPyramid((32, 64), 16)
        selector = autogaze.load("greedy", pyramid=pyramid)
        autogaze.gaze_video(folder / "a.mp4", selector=selector, ratio=0.2).save(
            folder / "gaze.safetensors"
        )
        tiny_model().save_pretrained(folder / "model")
        mae = VideoMAE(VideoMAEConfig.of({"image_size": 64, **MAE}))
        save_video_mae(mae, folder / "mae")
        labels = {
            "a/b/c.mp4": {"gazing_pos": [[0, 3], [21]], "task_losses": [[0.5, 0.4], [0.2]]},
            "a/b/d.mp4#8": {"gazing_pos": [[5], [20, 22]], "task_losses": [[0.5], [0.2, 0.1]]},
        }
        (folder / "labels.json").write_text(json.dumps(labels))
        return cls(folder)
