"""What lmms-eval calls for the task `hlvid`: documents to messages, answers to scores.

Videos are looked for as `autogaze eval hlvid` does, below the folder that the environment variable
`AUTOGAZE_HLVID` names, else below the working directory.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from autogaze.errors import EvaluationError
from autogaze.evaluation.answers.letters import find_letter
from autogaze.evaluation.answers.questions import VideoFinder

Document = Mapping[str, Any]


@cache
def _finder(root: str) -> VideoFinder:
    return VideoFinder(Path(root))


def find_video(doc: Document) -> str:
    """The file of a document's video.

    Raises:
        EvaluationError: it is missing.
    """
    root = os.environ.get("AUTOGAZE_HLVID", ".")
    found = _finder(root).find(doc["video_path"])
    if found is None:
        raise EvaluationError(
            f"{doc['video_path']}: there is no such video below {Path(root).resolve()}; run inside HLVid's "
            "folder, or name it in AUTOGAZE_HLVID"
        )
    return str(found)


def doc_to_visual(doc: Document) -> list[str]:
    """The video."""
    return [find_video(doc)]


def doc_to_text(doc: Document, lmms_eval_specific_kwargs: object = None) -> str:
    """The question, as it is."""
    return str(doc["question"])


def doc_to_messages(
    doc: Document, lmms_eval_specific_kwargs: object = None
) -> list[dict[str, Any]]:
    """The video, then the question."""
    content = [
        {"type": "video", "url": find_video(doc)},
        {"type": "text", "text": doc_to_text(doc)},
    ]
    return [{"role": "user", "content": content}]


def process_results(doc: Document, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whether the answer's letter is right; with the video, by which errors are clustered."""
    letter = find_letter(results[0])
    score = float(letter == str(doc["answer"]).strip().upper())
    return {
        "accuracy": {
            "score": score,
            "letter": letter,
            "question_id": doc.get("question_id"),
            "category": doc.get("category"),
            "video_path": doc["video_path"],
        }
    }


def mean_score(results: Sequence[Mapping[str, Any]]) -> float:
    """Accuracy, from 0 to 1: lmms-eval's errors are of `score`, in its unit."""
    return fmean(result["score"] for result in results)
