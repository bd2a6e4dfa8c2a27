"""The card of the shipped weights is in the Hub's form, and its figures are those that were measured."""

import re
from pathlib import Path

from huggingface_hub import ModelCard

from tests.test_docs import ROOT, table

CARD = ROOT / "autogaze" / "weights" / "README.md"


def test_the_card_is_in_the_form_of_the_hub():
    card = ModelCard.load(CARD)
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "autogaze"
    assert {"video", "patch-selection"} <= set(card.data.tags)
    assert card.data.model_name == "learned"
    assert card.text.lstrip().startswith("# Model card")
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()


def measured(page: Path, title: str) -> dict[str, str]:
    """The row of `learned` in the table of a page that follows `title`."""
    text = page.read_text()
    part = text[text.index(title) :]
    columns, _, row = re.findall(r"^\|.*\|$", part, re.MULTILINE)[:3]
    names, values = (line.strip("|").split("|") for line in (columns, row))
    assert values[0].strip() == "learned"
    return {name.strip(): value.strip() for name, value in zip(names, values, strict=True)}


def test_its_metrics_are_those_that_were_measured():
    quality = ROOT / "docs" / "quality.md"
    rows = {
        "canvas-loss": measured(quality, "Canvas loss, all clips"),
        "feature-distance": measured(quality, "Features of EfficientNet-Lite1, which"),
    }
    results = ModelCard.load(CARD).data.eval_results
    assert results is not None
    assert len(results) == 10
    for result in results:
        share = re.search(r"\d+ %", result.metric_name or "")
        assert share is not None
        value = float(rows[result.metric_type][share[0]].split("(")[0])
        assert result.metric_value == value, result.metric_name


def test_its_licences_cover_all_data():
    text = CARD.read_text()
    sources = {line.split("|")[1].strip() for line in text.splitlines() if re.match(r"\| \[", line)}
    assert len(sources) == 5
    licences = table(CARD, "data | files |")
    assert all(row["licence"] for row in licences.values())
