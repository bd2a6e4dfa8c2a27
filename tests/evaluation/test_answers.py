"""The answer benchmark of `examples/answers`: its clips, questions, training and scoring."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import autogaze
from autogaze.errors import MLLMError, OutputError, TrainingError
from autogaze.evaluation.bootstrap import Estimate

EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")
sys.path.insert(0, EXAMPLES)
from answers.choosing import CHOOSERS, MULTI_SCALE, load_chooser, units_of  # noqa: E402
from answers.drawing import (  # noqa: E402
    COLOURS,
    DIRECTIONS,
    DOT,
    LIT,
    SIDE,
    UNLIT,
    WHITE,
    draw_clip,
    draw_facts,
    paint,
    unit_labels,
    write_clip,
)
from answers.evaluation import (  # noqa: E402
    Journal,
    evaluate,
    likeliest,
    next_words,
    next_words_blind,
    questions_of,
)
from answers.model import WORDS, encode, load, make_model, make_tokenizer  # noqa: E402
from answers.prompts import CLIP_GRID, gazed_prompt  # noqa: E402
from answers.questions import KINDS, NUMBERS, QUESTIONS, Question, ask, right_answer  # noqa: E402
from answers.report import write_report  # noqa: E402
from answers.summary import Row, Run, read_runs  # noqa: E402
from answers.tables import tables  # noqa: E402
from answers.training import Recipe, Training, conversation, random_units  # noqa: E402

sys.path.remove(EXAMPLES)


def tiny_model(seed=0):
    return make_model(seed, width=64, layers=2, vision_width=48, vision_layers=1).eval()


@pytest.fixture(scope="module")
def clips():
    return [draw_clip("validation", number) for number in range(12)]


@pytest.fixture(scope="module")
def gazed():
    return autogaze.gazed_mllm(tiny_model())


@pytest.fixture(scope="module")
def trained():
    """The weights beside the benchmark."""
    return autogaze.gazed_mllm(load(Path(EXAMPLES, "answers", "weights")))


def pixel(clip, frame, y, x):
    return tuple(clip.frames[frame, :, y, x].tolist())


class TestDrawing:
    def test_a_clip_is_its_split_and_number(self, clips):
        again = draw_clip("validation", 3)
        assert torch.equal(again.frames, clips[3].frames)
        assert again.facts == clips[3].facts
        assert not torch.equal(draw_clip("test", 3).frames, again.frames)

    def test_colour_and_direction_are_those_of_the_frames(self, clips):
        for clip in clips:
            facts, half = clip.facts, clip.facts.size // 2
            middles = [facts.shape_at(frame) for frame in (0, 9)]
            for frame, (y, x) in zip((0, 9), middles, strict=True):
                assert pixel(clip, frame, y + half, x + half) == COLOURS[facts.colour]
            moved = [end - start for start, end in zip(*middles, strict=True)]
            assert [round(step / max(map(abs, moved))) for step in moved] == list(
                DIRECTIONS[facts.direction]
            )

    def test_the_lamp_lights_at_its_second(self, clips):
        for clip in clips:
            y, x = (place + 22 for place in clip.facts.lamp_at)
            seen = [pixel(clip, frame, y, x) for frame in range(10)]
            assert seen == [LIT if frame / 2 >= clip.facts.second else UNLIT for frame in range(10)]

    def test_as_many_dots_as_told(self, clips):
        for clip in clips:
            middles = [(y + DOT // 2, x + DOT // 2) for y, x in clip.facts.dots_at]
            assert len(set(middles)) == clip.facts.num_dots
            assert all(pixel(clip, frame, *at) == WHITE for at in middles for frame in (0, 9))

    def test_digits_look_different(self):
        drawn = {}
        ground = np.zeros((3, SIDE, SIDE), np.uint8)
        for number in range(60):
            facts = draw_facts(np.random.default_rng(number))
            y, x = facts.digit_at
            unit = paint(facts, ground)[0, :, y : y + 32, x : x + 32].tobytes()
            assert unit == drawn.setdefault(facts.digit, unit)
        glyphs = set(drawn.values())
        assert len(drawn) == len(glyphs) == 10

    def test_nothing_covers_anything(self, clips):
        """No unit shows two things so near each other that a label would be a matter of order."""
        for clip in clips:
            facts = clip.facts
            boxes = [(*facts.digit_at, 32), (*facts.lamp_at, 44)]
            boxes += [(*at, DOT) for at in facts.dots_at]
            boxes += [(*facts.shape_at(0), facts.size)]
            for place, (y, x, side) in enumerate(boxes):
                assert 0 <= y <= SIDE - side
                assert 0 <= x <= SIDE - side
                for top, left, other in boxes[:place]:
                    assert max(y, top) > min(y + side, top + other) or max(x, left) > min(
                        x + side, left + other
                    )

    def test_labels_are_where_things_are(self, clips):
        for clip in clips:
            shown, moves = unit_labels(clip.facts)
            row, column = (place // 32 for place in clip.facts.digit_at)
            assert (shown[:, row, column] == 7 + clip.facts.digit).all()
            assert (moves > 0).sum() == ((shown >= 1) & (shown <= 6)).sum() > 0


class TestQuestions:
    def test_the_answer_is_among_four_options(self, clips):
        for clip in clips:
            for question in questions_of(clip, "validation"):
                assert question.answer in question.options
                assert len(set(question.options)) == 4
        words = [q.answer for q in questions_of(clips[0], "validation")]
        facts = clips[0].facts
        assert words == [
            NUMBERS[facts.digit],
            facts.colour,
            NUMBERS[facts.num_dots],
            facts.direction,
            NUMBERS[facts.second],
        ]

    def test_its_place_tells_nothing(self, clips):
        facts = clips[0].facts
        for kind in KINDS:
            asked = [ask(kind, facts, "test", number) for number in range(400)]
            places = Counter(question.options.index(question.answer) for question in asked)
            assert all(60 < count < 140 for count in places.values())

    def test_words_are_the_tokenizers(self):
        tokenizer = make_tokenizer()
        special = ["<0.2 seconds>", "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"]
        text = f"{''.join(special)} {QUESTIONS['count']}"
        wanted = [WORDS[word] for word in special] + encode(QUESTIONS["count"])
        assert tokenizer(text).input_ids == wanted


class TestChoosing:
    @pytest.mark.parametrize("name", [*CHOOSERS, *MULTI_SCALE[:-1]])
    def test_budgets_hold_for_every_tubelet(self, name, clips):
        for ratio in (0.02, 0.3):
            (kept,) = load_chooser(name).keep(clips[:1], ratio)
            assert max(kept.lengths) == units_of(ratio)

    def test_scales_are_grids_of_units_of_their_own(self, clips, gazed):
        (kept,) = load_chooser("greedy:scales").keep(clips[:1], 0.1)
        sides = [(2, 2), (4, 4), (7, 7), (14, 14)]
        assert list(kept.grid.grids) == sides
        assert set(kept.places[:, 0].tolist()) == {0, 1, 2, 3}
        prompt = gazed_prompt([clips[0].frames], [kept])
        assert len(prompt.visuals[0].pixels) == 4 * kept.num_units
        words, tokens = next_words(gazed, clips[:1], [kept])
        assert tokens == [kept.num_units + 15]
        assert bool(words.isfinite().all())

    def test_the_union_keeps_more_than_its_cap(self, clips):
        (kept,) = load_chooser("greedy:union").keep(clips[:1], 0.1)
        assert kept.grid == CLIP_GRID
        assert kept.num_units > 0.3 * 980

    def test_what_is_chosen_once_is_cut_for_every_smaller_budget(self, clips):
        chooser = load_chooser("learned")
        few, more = (chooser.keep(clips[:1], ratio)[0] for ratio in (0.02, 0.1))
        pairs = [set(zip(k.tubelet.tolist(), k.ids.tolist(), strict=True)) for k in (few, more)]
        assert pairs[0] < pairs[1]

    def test_a_mapping_that_does_not_exist(self):
        with pytest.raises(MLLMError, match="'finest' or 'scales' or 'union', got 'coarse'"):
            load_chooser("greedy:coarse")

    def test_selectors_see_what_changes(self, clips):
        """At a tenth of the units, most of the moving shape and little else."""
        for clip in clips:
            shape = torch.isin(unit_labels(clip.facts)[0].flatten(1), torch.arange(1, 7))
            seen = {}
            for name in ("change", "random"):
                (kept,) = load_chooser(name).keep([clip], 0.1)
                seen[name] = float(shape[kept.tubelet, kept.ids].sum() / shape.sum())
            assert seen["change"] > 0.5 > seen["random"]

    def test_controls_keep_the_same_number(self, clips):
        for name in ("random", "uniform", "centre"):
            (kept,) = load_chooser(name).keep(clips[:1], 0.1)
            assert kept.lengths == (19,) * 5


class TestTraining:
    recipe = Recipe(steps=4, units=100, min_clips=2)

    def test_a_few_clips_are_learned(self, clips):
        torch.manual_seed(0)
        model = tiny_model().train()
        gazed = autogaze.gazed_mllm(model)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        kept = random_units(2, 20, torch.Generator().manual_seed(0))
        losses = []
        for _ in range(25):
            loss = conversation(gazed, clips[:2], kept, KINDS)[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.2 * losses[0]

    @pytest.mark.parametrize("chooser", ["random", "change"])
    def test_a_resumed_run_is_the_same_bit_for_bit(self, chooser, tmp_path):
        recipe = Recipe(steps=4, units=100, min_clips=2, chooser=chooser)
        whole = Training(tiny_model(), recipe, tmp_path)
        list(whole.run())
        first = Training(tiny_model(), recipe, tmp_path)
        for _, _ in zip(range(2), first.run(), strict=False):
            pass
        first.save()
        second = Training(tiny_model(seed=1), recipe, tmp_path)
        assert second.step == first.step
        list(second.run())
        assert second.clips == whole.clips
        for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_a_run_of_another_recipe_is_refused(self, tmp_path):
        Training(tiny_model(), self.recipe, tmp_path).save()
        with pytest.raises(TrainingError, match="steps=4"):
            Training(tiny_model(), Recipe(steps=5), tmp_path)

    def test_the_auxiliary_loss_is_of_the_finest_units(self, tmp_path):
        with pytest.raises(TrainingError, match="auxiliary"):
            Training(tiny_model(), Recipe(chooser="greedy:scales"), tmp_path)
        recipe = Recipe(chooser="greedy:scales", steps=1, units=100, min_clips=2, auxiliary=0)
        (losses,) = Training(tiny_model(), recipe, tmp_path).run()
        assert set(losses) == set(KINDS)

    def test_the_auxiliary_loss_ends(self, tmp_path):
        steps = list(Training(tiny_model(), self.recipe, tmp_path).run())
        assert ["units" in losses for losses in steps] == [True, True, False, False]


class TestScoring:
    def test_the_likeliest_option_is_taken(self):
        question = Question("colour", QUESTIONS["colour"], ("red", "blue", "green", "cyan"), "blue")
        words = torch.zeros(len(WORDS))
        words[WORDS["yellow"]] = 3  # likelier, but no option
        words[WORDS["green"]] = 1
        assert likeliest(question, words) == "green"

    def test_a_model_that_always_says_red(self, clips):
        model = tiny_model()
        model.lm_head = torch.nn.Linear(64, len(WORDS))
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.lm_head.bias.zero_()[WORDS["red"]] = 5
        found = next(evaluate(autogaze.gazed_mllm(model), "change", 0.1, range(8), "validation"))
        for answered, clip in zip(found, clips, strict=False):
            options = ask("colour", clip.facts, "validation", clip.number).options
            if "red" in options:
                assert answered.right["colour"] == (clip.facts.colour == "red")
        assert any(answered.right["colour"] for answered in found)

    def test_questions_share_the_video_that_was_read_once(self, clips, gazed):
        kept = load_chooser("change").keep(clips[:2], 0.2)  # of different lengths
        words, tokens = next_words(gazed, clips[:2], kept)
        assert tokens == [units.num_units + 15 for units in kept]
        for row, clip, units in zip(words, clips, kept, strict=False):
            for log_probs, kind in zip(row, KINDS, strict=True):
                alone = gazed_prompt([clip.frames], [units], [encode(QUESTIONS[kind])])
                with torch.no_grad():
                    wanted = gazed(gazed=alone).logits[0, -1].log_softmax(-1)
                torch.testing.assert_close(log_probs, wanted, atol=1e-4, rtol=1e-4)

    def test_without_a_video_a_quarter_is_right(self, gazed):
        (found,) = evaluate(gazed, "blind", 0.0, range(2))
        assert all(a.units == a.tokens == 0 for a in found)
        words = next_words_blind(gazed)
        for kind, row in zip(KINDS, words, strict=True):
            right = []
            for number in range(400):
                facts = draw_facts(np.random.default_rng(number))
                question = ask(kind, facts, "test", number)
                right.append(likeliest(question, row) == question.answer)
            assert 0.15 < sum(right) / 400 < 0.35


class TestReport:
    def test_answers_are_appended_and_torn_lines_dropped(self, tmp_path, gazed):
        path = tmp_path / "answers.jsonl"
        journal = Journal(path)
        journal.add(next(evaluate(gazed, "random", 0.02, range(3))))
        with path.open("a") as file:
            file.write('{"chooser": "random", "rat')
        again = Journal(path)
        assert again.answers == journal.answers
        assert again.missing("random", 0.02, 5) == [3, 4]
        again.add(next(evaluate(gazed, "random", 0.02, [3, 4])))
        assert Journal(path).missing("random", 0.02, 5) == []

    @pytest.mark.parametrize("run", ["answers.jsonl", "name=missing.jsonl"])
    def test_files_without_answers(self, run):
        with pytest.raises(OutputError, match="NAME=FILE"):
            read_runs([run])

    def test_choosers_of_one_model_alone(self, tmp_path, gazed):
        runs = {"one": ("dense", 1.0), "two": ("change:scales", 0.02)}
        for name, (chooser, ratio) in runs.items():
            Journal(tmp_path / name).add(next(evaluate(gazed, chooser, ratio, range(2))))
        write_report(read_runs([f"{name}={tmp_path / name}" for name in runs]), tmp_path / "report")
        one, two = json.loads((tmp_path / "report.json").read_text())
        assert [row["chooser"] for row in (*one["rows"], *two["rows"])] == [
            "dense",
            "change:scales",
        ]

    def test_accuracies_and_differences(self, tmp_path, gazed):
        journal = Journal(tmp_path / "answers.jsonl")
        for name in ("dense", "blind", "uniform", "random", "random:scales"):
            fixed = {"dense": 1.0, "blind": 0.0}.get(name, 0.02)
            journal.add(next(evaluate(gazed, name, fixed, range(4))))
        write_report(read_runs([f"random={journal.path}"]), tmp_path / "report")
        (run,) = json.loads((tmp_path / "report.json").read_text())
        rows = {row["chooser"]: row for row in run["rows"]}
        means = {name: row["accuracy"]["all"]["mean"] for name, row in rows.items()}
        assert rows["dense"]["share"] == 1
        assert rows["uniform"]["above_random"]["mean"] == pytest.approx(
            means["uniform"] - means["random"]
        )
        assert rows["random:scales"]["above_finest"]["mean"] == pytest.approx(
            means["random:scales"] - means["random"]
        )
        assert rows["random"]["above_random"] is rows["random"]["above_finest"] is None
        right = [a.right["digit"] for a in journal.answers if a.chooser == "dense"]
        assert rows["dense"]["accuracy"]["digit"]["mean"] == pytest.approx(sum(right) / 4)
        assert (tmp_path / "report.png").stat().st_size > 10_000
        assert "| `uniform` |" in (tmp_path / "report.md").read_text()


def test_the_page_has_the_tables_of_its_figures():
    docs = Path(EXAMPLES).parent / "docs"
    runs = [
        Run(run["name"], tuple(row_of(row) for row in run["rows"]))
        for run in json.loads((docs / "answers.json").read_text())
    ]
    page = (docs / "answers.md").read_text()
    assert [title for title, table in tables(runs) if table not in page] == []


def row_of(row):
    gains = {name: row[name] and Estimate(**row[name]) for name in ("above_random", "above_finest")}
    accuracy = {kind: Estimate(**value) for kind, value in row["accuracy"].items()}
    return Row(**{**row, **gains, "accuracy": accuracy})


class TestTrainedModel:
    """The weights beside the benchmark: what few clips can tell of the figures in docs/answers.md."""

    def test_it_answers_right_when_it_sees_everything(self, trained):
        (found,) = evaluate(trained, "dense", 1.0, range(5), "validation")
        assert sum(sum(a.right.values()) for a in found) >= 23  # of 25

    def test_a_tenth_chosen_by_greedy_is_enough_where_the_same_at_random_is_not(self, trained):
        right = {}
        for name in ("greedy", "random"):
            found = [
                a for part in evaluate(trained, name, 0.1, range(12), "validation") for a in part
            ]
            right[name] = {kind: sum(a.right[kind] for a in found) for kind in KINDS}
        assert all(right["greedy"][kind] >= 11 for kind in ("digit", "colour", "direction"))
        assert right["random"]["digit"] <= 10

    def test_it_answers_about_a_file(self, trained, clips, tmp_path):
        processor = autogaze.GazedProcessor.from_pretrained(
            Path(EXAMPLES, "answers", "weights"), selector="greedy", ratio=0.1
        )
        for number, clip in enumerate(clips[:3]):
            write_clip(clip, tmp_path / f"{number}.mp4")
            for kind in ("digit", "colour", "direction"):
                text = QUESTIONS[kind].replace(" ?", "?").capitalize()
                video = {"type": "video", "video": str(tmp_path / f"{number}.mp4")}
                inputs = processor.apply_chat_template(
                    [{"role": "user", "content": [video, {"type": "text", "text": text}]}],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                )
                ids = trained.generate(**inputs, max_new_tokens=1)
                assert ids[0, -1] == WORDS[right_answer(kind, clip.facts)]
