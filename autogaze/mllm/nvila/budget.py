"""Whether a prompt fits into the LLM's context, and which ratio does."""

from collections.abc import Sequence
from math import floor

from autogaze.errors import MLLMError
from autogaze.mllm.nvila.gazed_video import GazedVideo


def check_length(
    length: int, limit: int | None, videos: Sequence[GazedVideo], shuffle: int
) -> None:
    """Raise MLLMError, with a ratio and a number of tokens that fit, where a prompt is longer than the LLM's context.

    Args:
        length: tokens of the prompt and of the answer.
        limit: of the LLM; None for none.
        videos: those of the prompt.
        shuffle: patches of a frame in a token.
    """
    if limit is None or length <= limit:
        return
    of_videos = sum(video.num_tokens(shuffle) for video in videos)
    message = (
        f"prompt and answer take {length:,} tokens, {of_videos:,} of them for the video, but the "
        f"LLM's context holds {limit:,}"
    )
    available = limit - (length - of_videos)
    fits = []
    ratio = largest_ratio(videos, shuffle, available)
    if ratio is not None:
        kept = sum(video.gaze.num_patches for video in videos)
        dense = sum(v.gaze.lengths.numel() * v.gaze.pyramid.num_patches for v in videos)
        fits.append(
            f"gazing_ratio_tile={ratio:g} (on the command line --ratio {ratio:g}) fits "
            f"(these tiles kept {kept / dense:.3g})"
        )
    whole = sum(video.thumbnails.num_tokens(shuffle) for video in videos if video.thumbnails)
    if available >= whole + len(videos):
        fits.append(f"max_vision_tokens={available} (--max-vision-tokens {available}) fits")
    if fits:
        raise MLLMError(f"{message}; {', and '.join(fits)}")
    raise MLLMError(
        f"{message}; no ratio of the tiles fits: sample fewer frames (num_video_frames, "
        "on the command line --frames), or gaze at thumbnails too (gazing_ratio_thumbnail, num_video_frames_thumbnail)"
    )


def largest_ratio(videos: Sequence[GazedVideo], shuffle: int, available: int) -> float | None:
    """The largest cap of the tiles' patches with which videos take at most `available` tokens.

    Thumbnails stay as they are. Rounded down to three digits; None where none fits.
    """
    thumbnails = sum(v.thumbnails.num_tokens(shuffle) for v in videos if v.thumbnails)
    # Frames, tiles of a frame, and patches of a tile of every video.
    sizes = [(*reversed(v.gaze.lengths.shape), v.gaze.pyramid.num_patches) for v in videos]
    for thousandths in range(1000, 0, -1):
        ratio = thousandths / 1000
        tokens = sum(
            frames * -(-max(1, floor(ratio * patches)) * tiles // shuffle)
            for frames, tiles, patches in sizes
        )
        if thumbnails + tokens <= available:
            return ratio
    return None
