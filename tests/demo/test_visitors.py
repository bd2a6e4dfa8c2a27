"""Files and jobs of visitors: who leaves takes theirs along, and nobody else's."""

import os

import pytest
import torch

from autogaze.demo.live import LiveSettings
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.visitors import Visitors
from autogaze.demo.work import Cancelled
from autogaze.errors import SelectorError
from autogaze.pipeline import precision_of


@pytest.fixture
def visitors(tmp_path):
    return Visitors(tmp_path)


def upload(visitors, name="clip.mp4"):
    """A file as the server puts it into its place, also where an equal one is."""
    path = visitors.root / "hash" / name
    path.parent.mkdir(exist_ok=True)
    arriving = visitors.root / "arriving"
    arriving.write_text("a video")
    os.rename(arriving, path)
    return path


def test_a_finished_job_stays_until_the_visitor_leaves(visitors):
    with visitors.job("a") as (_, folder):
        (folder / "gaze").touch()
    assert (folder / "gaze").exists()
    visitors.leave("b")
    assert folder.exists()
    visitors.leave("a")
    assert not folder.exists()
    assert len(visitors) == 0


def test_the_next_job_takes_the_place_of_the_last(visitors):
    with visitors.job("a") as (_, folder):
        pass
    visitors.forget_results("a")
    assert not folder.exists()


@pytest.mark.parametrize("end", ["cancel", "leave"])
def test_jobs_stop_and_their_folders_go(visitors, end):
    def job():
        with visitors.job("a") as (stop, folder):
            (folder / "gaze").touch()
            getattr(visitors, end)("a")
            stop.check()

    with pytest.raises(Cancelled):
        job()
    assert list(visitors.root.iterdir()) == []


def test_a_job_that_ends_after_its_visitor_left_leaves_nothing(visitors):
    with pytest.raises(Cancelled), visitors.job("a") as (_, folder):
        visitors.leave("a")
    assert not folder.exists()


def test_others_go_on(visitors):
    with visitors.job("a") as (stop, _):
        assert visitors.cancel("b") == 0
        assert visitors.cancel("") == 0
        stop.check()


def test_uploads_go_with_the_last_who_sent_them(visitors):
    path = upload(visitors)
    visitors.uploaded("a", path)
    visitors.uploaded("b", upload(visitors))
    visitors.leave("a")
    assert path.exists()
    visitors.uploaded("b", path)
    visitors.leave("b")
    assert not path.exists()


def test_uploads_go_in_whatever_order_their_senders_leave(visitors):
    visitors.uploaded("a", upload(visitors))
    path = upload(visitors)
    visitors.uploaded("b", path)
    visitors.leave("b")
    assert path.exists()
    visitors.leave("a")
    assert not path.exists()


def test_an_upload_that_was_just_sent_again_stays(visitors):
    """Its sender has not used it yet, so that nobody knows whose it is."""
    path = upload(visitors)
    visitors.uploaded("a", path)
    upload(visitors)
    visitors.leave("a")
    assert path.exists()


def test_another_upload_takes_the_place_of_the_last(visitors):
    first = upload(visitors, "first.mp4")
    visitors.uploaded("a", first)
    visitors.uploaded("a", upload(visitors, "second.mp4"))
    assert not first.exists()


def test_what_a_job_reads_stays_until_it_ends(visitors):
    first, second = upload(visitors, "first.mp4"), upload(visitors, "second.mp4")
    with visitors.reading("a", first), visitors.reading("a", first):
        with visitors.reading("a", second):
            assert first.exists()
        assert second.exists()  # the latest
    assert not first.exists()
    assert second.exists()
    with visitors.reading("a", second):
        visitors.leave("a")
        assert not second.exists()
    assert len(visitors) == 0


def test_files_elsewhere_are_never_removed(visitors, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "clip.mp4"
    path.touch()
    visitors.uploaded("a", path)
    visitors.leave("a")
    assert path.exists()


def test_a_pool_lends_every_selector_once():
    pool = SelectorPool(["greedy", "random"])
    with pool.borrow("greedy") as first, pool.borrow("greedy") as second:
        assert first is not second
    with pool.borrow("greedy") as third:
        assert third in (first, second)
    for name in ("learned", "/etc", "nvidia/AutoGaze", ""):
        with pytest.raises(SelectorError, match="greedy, random"):
            pool.acquire(name)


def test_a_selector_that_is_named_twice_is_offered_once():
    assert SelectorPool(["random", "greedy", "random"]).names == ("random", "greedy")


def test_a_webcams_selector_is_given_back(visitors):
    pool = SelectorPool(["random"])
    live = visitors.live("a", LiveSettings("random", 0.1), pool)
    assert visitors.live("a", LiveSettings("random", 0.1), pool) is live
    other = visitors.live("a", LiveSettings("random", 0.2), pool)
    assert other is not live
    visitors.leave("a")
    with pool.borrow("random") as free:
        assert free is other._selector
    with pytest.raises(SelectorError):
        visitors.live("a", LiveSettings("random", 2.0), pool)
    with pool.borrow("random") as free:
        assert free is other._selector


def test_a_pools_precision_is_that_of_its_models():
    pool = SelectorPool(["greedy", "learned"], "cpu", "bfloat16")
    with pool.borrow("greedy") as greedy, pool.borrow("learned") as learned:
        assert (precision_of(greedy), precision_of(learned)) == (torch.float32, torch.bfloat16)
