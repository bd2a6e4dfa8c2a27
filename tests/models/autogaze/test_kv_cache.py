"""The native attention kernel: exact, and PyTorch's instead where it cannot be built."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from autogaze.errors import SelectorError
from autogaze.models.autogaze import kv_cache as kernel
from autogaze.models.autogaze.kv_cache import Feed, KVCache, NativeKVCache, attention_kernel
from tests.gazes import same
from tests.models.autogaze.tiny import tiny_model, tiny_video

HEAD_DIMS = [12, 32, 64]


@pytest.fixture(autouse=True)
def gazing(monkeypatch):
    """No gradients, the kernel not chosen from outside, and work for more than one thread."""
    monkeypatch.delenv(kernel.SWITCH, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing compiled yet, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel._built.cache_clear()
    yield tmp_path
    kernel._built.cache_clear()


def library(head_dim: int) -> kernel.Library:
    found = attention_kernel(torch.zeros(1), head_dim)
    if found.library is None:
        pytest.skip(found.why)
    return found.library


def expected_attention(queries, keys, values, past):
    """(n, H, D) of (n, H, D) queries over (past + n, KV, D), in float64."""
    count, group = len(queries), queries.shape[1] // keys.shape[1]
    seen = torch.ones(count, past + count, dtype=torch.bool).tril(past)
    attended = F.scaled_dot_product_attention(
        queries.double().transpose(0, 1),
        keys.double().transpose(0, 1).repeat_interleave(group, 0),
        values.double().transpose(0, 1).repeat_interleave(group, 0),
        attn_mask=seen,
        scale=1.0,
    )
    return attended.transpose(0, 1).flatten(1)


@st.composite
def feeds(draw):
    """Tokens a row holds and is fed: few or many, some rows not fed at all."""
    num_rows = draw(st.integers(1, 4))
    few, many = st.integers(0, 12), st.integers(0, 260)
    held = [draw(st.one_of(st.just(0), few, st.integers(0, 700))) for _ in range(num_rows)]
    counts = [draw(st.one_of(few, many)) for _ in range(num_rows)]
    assume(any(counts))
    return held, counts


@given(
    feeds(),
    st.sampled_from(HEAD_DIMS),
    st.sampled_from([(6, 6), (4, 2), (6, 1), (1, 1)]),
    st.sampled_from([0.1, 1, 3]),
    st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_attention_equals_pytorchs_in_double_precision(rows, head_dim, heads, scale, seed):
    held, counts = rows
    H, KV = heads
    torch.manual_seed(seed)
    cache = NativeKVCache(2, len(held), KV, head_dim, 1, torch.zeros(1), library=library(head_dim))
    cache.keys_values.fill_(float("nan"))
    stored = [torch.randn(n + new, 2 * KV, head_dim) for n, new in zip(held, counts, strict=True)]

    def feed_of(numbers):
        fed = [row for row, n in enumerate(numbers) if n]
        return Feed(tuple(fed), tuple(numbers[row] for row in fed))

    if any(held):
        past = feed_of(held)
        cache.reserve(past)
        for layer in range(2):
            cache.write(layer, past, torch.cat([stored[row][: held[row]] for row in past.rows]))
        cache.advance(past)
    feed = feed_of(counts)
    cache.reserve(feed)
    new = torch.cat([stored[row][held[row] :] for row in feed.rows])
    # Queries, keys and values are columns of one projection, as in the decoder.
    queries = torch.randn(feed.num_tokens, H, head_dim) * scale * head_dim**-0.5
    projected = torch.cat([queries, new], 1)
    queries, new = projected[:, :H], projected[:, H:]
    for layer in range(2):
        cache.write(layer, feed, new)
        attended = cache.attend(layer, feed, queries)
        last = cache.attend(layer, feed, queries[feed.last()], last_only=True)
        expected = torch.cat(
            [
                expected_attention(part, stored[row][:, :KV], stored[row][:, KV:], held[row])
                for row, part in zip(feed.rows, queries.split(feed.counts), strict=True)
            ]
        )
        torch.testing.assert_close(attended.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(last.double(), expected[feed.last()], rtol=1e-5, atol=1e-5)
    cache.advance(feed)
    assert cache.lengths == [a + b for a, b in zip(held, counts, strict=True)]


def test_scores_far_apart_neither_overflow_nor_vanish():
    held, head_dim = 600, 32
    cache = NativeKVCache(1, 1, 1, head_dim, held, torch.zeros(1), library=library(head_dim))
    tokens = torch.randn(held, 2, head_dim)
    tokens[:, 0] *= torch.linspace(0, 300, held)[:, None]
    queries = torch.randn(held, 1, head_dim)
    feed = Feed((0,), (held,))
    cache.reserve(feed)
    cache.write(0, feed, tokens)
    expected = expected_attention(queries, tokens[:, :1], tokens[:, 1:], 0)
    # Scores of some thousands are themselves rounded to about 1e-4.
    torch.testing.assert_close(
        cache.attend(0, feed, queries).double(), expected, rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("stop", [None, 0.5])
def test_both_kernels_gaze_alike(monkeypatch, stop):
    library(12)
    video, gazes = tiny_video(3, 4), []
    for name in ("native", "torch"):
        monkeypatch.setenv(kernel.SWITCH, name)
        model = tiny_model(kv_heads=2)
        stream = model.stream(3)  # room for one frame: the cache grows
        gazes.append(model.generate(video, caps=[15, 7, 20, 2], threshold=stop, stream=stream))
        assert isinstance(stream.states[0].cache, NativeKVCache) == (name == "native")
    assert same(gazes[0].to_gaze(), gazes[1].to_gaze())


def test_unsupported_tensors_use_pytorch():
    plain = torch.zeros(1)
    for like, head_dim, why in (
        (plain.bfloat16(), 32, "bfloat16"),
        (plain.to("meta"), 32, "meta"),
        (plain, 30, "30"),
        (plain, 512, "512"),
    ):
        found = attention_kernel(like, head_dim)
        assert found.name == "torch"
        assert why in found.why
    with torch.enable_grad():
        assert "gradients" in attention_kernel(plain, 32).why
    cache = kernel.new_kv_cache(1, 1, 1, 30, 8, plain)
    assert type(cache) is KVCache


def test_the_switch(monkeypatch, fresh):
    monkeypatch.setenv(kernel.SWITCH, "torch")
    assert attention_kernel(torch.zeros(1), 32).why == "AUTOGAZE_ATTENTION=torch"
    assert type(kernel.new_kv_cache(1, 1, 1, 32, 8, torch.zeros(1))) is KVCache
    assert not list(fresh.rglob("*.so"))
    monkeypatch.setenv(kernel.SWITCH, "native")
    with pytest.raises(SelectorError, match=r"head dimensions .*30"):
        attention_kernel(torch.zeros(1), 30)
    monkeypatch.setenv(kernel.SWITCH, "fast")
    with pytest.raises(SelectorError, match="'fast'"):
        attention_kernel(torch.zeros(1), 32)


@pytest.mark.parametrize(
    ("broken", "why"), [("false", "'false' failed"), ("/no/such/cc -x", "cannot be run")]
)
def test_a_broken_compiler_falls_back_to_pytorch(monkeypatch, fresh, broken, why):
    monkeypatch.setenv("CC", broken)
    found = attention_kernel(torch.zeros(1), 32)
    assert found.name == "torch"
    assert why in found.why
    monkeypatch.setenv(kernel.SWITCH, "native")
    with pytest.raises(SelectorError, match=why):
        attention_kernel(torch.zeros(1), 32)


def test_no_compiler_falls_back_to_pytorch(monkeypatch, fresh):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    assert "no C compiler" in attention_kernel(torch.zeros(1), 32).why


def test_an_unusable_cache_folder_falls_back_to_pytorch(monkeypatch, fresh):
    library(32)
    kernel._built.cache_clear()
    (fresh / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    assert "cache folder" in attention_kernel(torch.zeros(1), 32).why


def test_wrong_results_fall_back_to_pytorch(monkeypatch, fresh):
    library(32)
    kernel._built.cache_clear()
    monkeypatch.setattr(kernel.Library, "attend", lambda *_: torch.zeros(40, 64))
    assert "wrong results" in attention_kernel(torch.zeros(1), 32).why


def test_a_damaged_library_falls_back_to_pytorch(monkeypatch, fresh):
    library(32)
    kernel._built.cache_clear()
    other = fresh / "other" / "autogaze"
    other.mkdir(parents=True)
    (other / next(fresh.rglob("*.so")).name).write_bytes(b"not a library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(other.parent))
    assert "cannot be loaded" in attention_kernel(torch.zeros(1), 32).why


COMPILE_TWICE = """
import os, torch
from autogaze.models.autogaze.kv_cache import attention_kernel
torch.set_grad_enabled(False)
other = os.fork()
os.write(1, f"{attention_kernel(torch.zeros(1), 32).name}\\n".encode())  # in one piece
if other:
    assert os.waitpid(other, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, as POSIX does")
def test_several_processes_compile_at_once(tmp_path):
    library(32)  # where there is no compiler, there is nothing to test
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_TWICE],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["native"] * 2
    assert [path.suffix for path in (tmp_path / "autogaze").iterdir()] == [".so"]
