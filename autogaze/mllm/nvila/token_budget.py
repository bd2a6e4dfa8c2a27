"""Tokens of the videos of a prompt: within a number spread over frames by what they need, and the LLM's context."""

from collections.abc import Sequence
from math import floor

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.checks import counted
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo
from autogaze.mllm.ranking import NO_ORDER
from autogaze.mllm.unit_choice import spend


def fit(videos: Sequence[GazedVideo], most: int | None, shuffle: int) -> list[GazedVideo]:
    """The videos of one prompt with at most so many tokens, of `shuffle` patches each; None: any number.

    What a frame needs is what was chosen of it. If all need more than there are, each keeps the
    same share of its need, the patches chosen first of all its tiles; what is kept whole, as
    thumbnails are at ratio 1, stays whole. A video keeps at least one token more than that.

    Raises:
        MLLMError: more tokens that are kept whatever is chosen than there are; a gaze that has to
            be cut and does not know its order.
    """
    if most is None or sum(v.num_tokens(shuffle) for v in videos) <= most:
        return list(videos)
    fixed = sum(
        part.num_tokens(shuffle) for video in videos for part in video.parts if part.is_whole
    )
    open_ = [video for video in videos if not all(part.is_whole for part in video.parts)]
    if fixed + len(open_) > most:
        raise MLLMError(
            f"max_vision_tokens={most} is not enough: what is kept whole (thumbnails among it) has "
            f"{counted(fixed, 'token')}, and {counted(len(open_), 'video')} may not have less than "
            "one each. Give more tokens, fewer thumbnails (num_video_frames_thumbnail), or gaze at "
            "them too (gazing_ratio_thumbnail below 1)"
        )
    counts = iter(spend([_needs(video, shuffle) for video in open_], most - fixed))
    return [_first(video, next(counts), shuffle) if video in open_ else video for video in videos]


def _needs(video: GazedVideo, shuffle: int) -> list[int]:
    """Tokens of every frame of the parts that can be cut."""
    counts = [part.lengths.sum(0) for part in video.parts if not part.is_whole]
    return (-(-torch.cat(counts) // shuffle)).tolist()  # type: ignore[no-any-return]


def _first(video: GazedVideo, tokens: Sequence[int], shuffle: int) -> GazedVideo:
    """The video with so many tokens of every frame that can be cut."""
    left = list(tokens)
    parts = []
    for part in video.parts:
        if not part.is_whole:
            num_frames = part.lengths.shape[1]
            part = _first_by_turns(part, torch.tensor(left[:num_frames]) * shuffle)
            del left[:num_frames]
        parts.append(part)
    tiles, small = parts[: len(video.tiles)], parts[len(video.tiles) :]
    return GazedVideo(tuple(tiles), small[0] if small else None, video.grid)


def _first_by_turns(clips: GazedClips, most: Int[Tensor, " frames"]) -> GazedClips:
    """The patches of every frame that were chosen first, of all its tiles, which take turns."""
    gaze, lengths = clips.gaze, clips.lengths
    counts = lengths.sum(0)
    if bool((counts <= most).all()):
        return clips
    if (order := clips.order) is None:
        raise MLLMError(NO_ORDER)
    num_frames = lengths.shape[1]
    frame = gaze.frame_of_patch % num_frames
    clip = gaze.frame_of_patch // num_frames
    # Frame by frame, in the order of choice; then each patch's place in its frame.
    turn = (frame * (int(order.max()) + 1) + order) * len(lengths) + clip
    by_turn = turn.argsort()
    starts = counts.cumsum(0) - counts
    place = torch.empty_like(turn)
    place[by_turn] = torch.arange(len(turn)) - starts[frame[by_turn]]
    return clips.where(place < most[frame])


def check_length(
    length: int, limit: int | None, videos: Sequence[GazedVideo], shuffle: int
) -> None:
    """Raise MLLMError, with a ratio and a number of tokens that fit, where a prompt and its answer,
    `length` tokens, exceed the LLM's context (None: it has no limit).
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
