"""Lines that can be told apart, and names at their ends that do not cover each other."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.rendering.plot_style import LineEnd, label_ends, selector_styles, spread_out


def test_the_controls_differ_from_each_other_in_more_than_colour():
    styles = selector_styles(["greedy", "random", "centre", "change"])
    random, centre = styles["random"], styles["centre"]
    assert random.marker != centre.marker
    assert random.dashes != centre.dashes
    assert random.hollow
    assert centre.hollow
    assert not styles["greedy"].hollow
    assert len({style.colour for style in styles.values()}) == 4


def test_there_are_styles_for_any_number_of_selectors():
    names = [f"number {n}" for n in range(20)]
    assert list(selector_styles(names)) == names


@settings(deadline=None)
@given(levels=st.lists(st.floats(0, 1), min_size=1, max_size=9), room=st.floats(0.01, 0.5))
def test_names_stand_apart_within_the_axes(levels, room):
    placed = spread_out(sorted(levels), room, 0.0, 1.0)
    room = min(room, 1 / len(levels))
    assert all(b - a >= room - 1e-9 for a, b in pairwise(placed))
    assert placed[0] >= -1e-9
    assert placed[-1] <= 1 + 1e-9


def test_names_with_room_stay_at_their_lines():
    assert spread_out([0.2, 0.5, 0.9], 0.1, 0.0, 1.0) == [0.2, 0.5, 0.9]
    assert spread_out([0.5, 0.5], 0.2, 0.0, 1.0) == pytest.approx([0.5, 0.7])
    assert spread_out([0.95, 0.96], 0.2, 0.0, 1.0) == pytest.approx([0.7, 0.9])


def test_every_line_is_named_right_of_the_axes():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set_xlim(0, 2)
    axes.set_ylim(0, 1)
    ends = [LineEnd("upper", "black", 1.5, 0.8), LineEnd("lower", "red", 1.9, 0.79)]
    label_ends(axes, ends)
    texts = {text.get_text(): text for text in axes.texts}
    assert set(texts) == {"upper", "lower"}
    for end in ends:
        assert texts[end.name].xy == (end.x, end.y)
        assert texts[end.name].get_position()[0] > 2
        assert texts[end.name].get_color() == end.colour
    assert texts["upper"].get_position()[1] - texts["lower"].get_position()[1] > 0.04
