"""Devices by name; free memory goes back to the system where glibc keeps it; batches are halved once."""

import ctypes
from collections.abc import Iterator

import pytest
import torch

from autogaze.errors import AutoGazeError, EncoderError
from autogaze.utils import device
from autogaze.utils.device import BatchSize, DeviceOptions, trim_memory


def test_names_of_device_and_precision() -> None:
    options = DeviceOptions.parse("cpu", "bfloat16")
    assert options == DeviceOptions(torch.device("cpu"), torch.bfloat16)
    assert str(options) == "cpu bfloat16"
    assert DeviceOptions.parse("cpu").dtype is torch.float32


@pytest.mark.parametrize("name", ["toaster", "meta", "cuda:x", "cuda", ""])
def test_devices_that_cannot_be_had(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(AutoGazeError, match=repr(name)):
        DeviceOptions.parse(name)


def test_unknown_precision() -> None:
    with pytest.raises(AutoGazeError, match="int8"):
        DeviceOptions.parse("cpu", "int8")


@pytest.fixture
def asks_again() -> Iterator[None]:
    """What the C library offers is looked up anew in a test and after it."""
    device._malloc_trim.cache_clear()
    yield
    device._malloc_trim.cache_clear()


@pytest.mark.usefixtures("asks_again")
def test_the_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Library:
        malloc_trim = staticmethod(asked.append)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    trim_memory()
    trim_memory()
    assert asked == [0, 0]


@pytest.mark.usefixtures("asks_again")
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_without_glibc_nothing_happens(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    trim_memory()


def test_here_it_runs() -> None:
    trim_memory()


@pytest.mark.parametrize(("there", "kind"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(
    there: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert DeviceOptions.parse().device.type == kind
    assert DeviceOptions.parse("auto", "float32").device.type == kind


def test_a_number_beyond_the_gpus_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert DeviceOptions.parse("cuda:1").device == torch.device("cuda:1")
    with pytest.raises(AutoGazeError, match=r"cuda:2.*2 here"):
        DeviceOptions.parse("cuda:2")


def test_apples_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(AutoGazeError, match="mps"):
        DeviceOptions.parse("mps")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert DeviceOptions.parse("mps").device == torch.device("mps")


@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu", "cpu:0"])
def test_devices_of_torch(device: str | torch.device) -> None:
    assert DeviceOptions.parse(device, torch.float16) == DeviceOptions(
        torch.device("cpu"), torch.float16
    )


def test_slow_half_precision_on_a_cpu_is_said(caplog: pytest.LogCaptureFixture) -> None:
    DeviceOptions.parse("cpu", "bfloat16")
    assert not caplog.records
    DeviceOptions.parse("cpu", "float16")
    assert "float16" in caplog.text


class Memory:
    """Work on a device that holds a number of items at most."""

    def __init__(self, holds: int) -> None:
        self.holds, self.asked = holds, list[int]()

    def __call__(self, size: int) -> int:
        self.asked.append(size)
        if size > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        return size


@pytest.mark.parametrize(("size", "holds", "asked"), [(8, 8, [8]), (8, 5, [8, 4]), (7, 4, [7, 4])])
def test_half_is_taken_once_where_all_is_too_much(size: int, holds: int, asked: list[int]) -> None:
    memory, batch = Memory(holds), BatchSize("tiles", "take fewer")
    assert batch.run(size, memory) == asked[-1]
    assert memory.asked == asked


def test_half_is_taken_from_then_on() -> None:
    memory, batch = Memory(4), BatchSize("tiles", "take fewer")
    assert [batch.run(size, memory) for size in (8, 8, 3)] == [4, 4, 3]
    assert memory.asked == [8, 4, 4, 3]


@pytest.mark.parametrize(("size", "holds"), [(8, 3), (1, 0), (2, 0)])
def test_no_memory_for_half_is_an_error_that_says_what_to_lower(size: int, holds: int) -> None:
    batch = BatchSize("tiles", "take fewer", EncoderError)
    with pytest.raises(EncoderError, match="take fewer") as raised:
        batch.run(size, Memory(holds))
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_left_alone() -> None:
    def broken(size: int) -> None:
        raise AutoGazeError("broken")

    batch = BatchSize("tiles", "take fewer")
    with pytest.raises(AutoGazeError, match="broken"):
        batch.run(4, broken)
    assert batch.halved is None


def test_the_same_numbers_are_drawn_the_second_time() -> None:
    generator = torch.Generator().manual_seed(2)
    expected = torch.rand(3, generator=generator)

    def draw(size: int) -> torch.Tensor:
        drawn = torch.rand(3, generator=generator)
        if size > 2:
            raise torch.OutOfMemoryError("out of memory")
        return drawn

    generator.manual_seed(2)
    assert BatchSize("tiles", "take fewer").run(4, draw, generator).equal(expected)
