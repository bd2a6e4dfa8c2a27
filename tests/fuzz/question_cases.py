"""Sets of questions and journals of answers, changed."""

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

from autogaze.evaluation.answers.answering import Answer, Condition, StageSeconds
from autogaze.evaluation.answers.letters import find_letter
from autogaze.evaluation.answers.questions import Question, load_questions
from autogaze.evaluation.answers.run import AnswerJournal, read_run
from tests.fuzz.material import Material
from tests.fuzz.mutation import change_bytes, change_values, to_json
from tests.fuzz.outcomes import attempt

CONDITION, SETTINGS = Condition("greedy", ratio=0.1), {"model": "tiny", "max_new_tokens": 16}


def questions(material: Material, folder: Path, random: Random) -> str:
    """A set of questions, or a journal of answers to it."""
    if random.random() < 0.35:
        return _journal(folder, random)
    rows: Any = [
        {
            "question_id": number,
            "video_path": name,
            "question": f"What moves?\nA. {number}\nB. a square",
            "answer": "AB"[number % 2],
            "category": "motion",
        }
        for number, name in enumerate(("a.mp4", "a.mkv", "missing.mp4"))
    ]
    as_text = random.random() < 0.4
    if not as_text:
        rows = change_values(rows, random)[0]
    kind = random.choice(("jsonl", "csv"))
    path = folder / f"wrong.{kind}"
    data = _csv(rows) if kind == "csv" else _lines(rows)
    path.write_bytes(change_bytes(data, random) if as_text else data)
    return attempt(lambda: load_questions(path, material.folder), path.name, "video_path")


def _lines(rows: Any) -> bytes:
    lines = map(to_json, rows if isinstance(rows, list) else [rows])
    return "".join(f"{line}\n" for line in lines).encode()


def _csv(rows: Any) -> bytes:
    """What a table editor would write of the rows, right or wrong."""
    table = rows if isinstance(rows, list) else [rows]
    named = [row for row in table if isinstance(row, dict)]
    columns = list(dict.fromkeys(str(name) for row in named for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in table:
        values = [row.get(name) for name in columns] if isinstance(row, dict) else [row]
        writer.writerow([value if isinstance(value, str) else to_json(value) for value in values])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _journal(folder: Path, random: Random) -> str:
    answers = folder / "answers"
    with AnswerJournal(answers, CONDITION, SETTINGS) as journal:
        path = journal.path
        journal.begin_session({"machine": "any"})
        for number in ("1", "2"):
            answer = Answer("B.", 40, 120, StageSeconds(decode=0.1), 20, 100)
            journal.add(Question(number, "a.mp4", "What moves?", "B"), answer)
    lines: Any = [json.loads(line) for line in path.read_text().splitlines()]
    if random.random() < 0.4:
        path.write_bytes(change_bytes(_lines(lines), random))
    else:
        path.write_bytes(_lines(change_values(lines, random)[0]))

    def read_and_go_on() -> None:
        run, _ = read_run(path)
        for found in run.answers.values():
            find_letter(found.text)
        with AnswerJournal(answers, CONDITION, SETTINGS) as again:
            again.begin_session({})

    return attempt(read_and_go_on, path.name)
