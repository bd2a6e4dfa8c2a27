"""Sampling a block of patches from the decoder's logits, each patch at most once per frame."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.errors import SelectorError


@dataclass(frozen=True)
class Sampling:
    """Options for sampling patches.

    Args:
        temperature: of the softmax; 0 takes the likeliest patches.
        generator: source of randomness; None is torch's global one.
        row_seeds: one seed per row instead. A row's samples in a frame then depend on its seed
            and the frame's number only, not on its batch. CPUs draw other numbers than GPUs.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None
    row_seeds: tuple[int, ...] | None = None

    def for_frame(
        self,
        frame: int,
        rows: slice,
        num_rows: int,
        log_weights: Float[Tensor, "B V"] | None = None,
        *,
        device: torch.device | None = None,
    ) -> "FrameSampling":
        """Sampling for one frame of some of the rows.

        Rows' generators are seeded anew in every frame. A row that has finished goes on drawing
        while others of its batch are unfinished, so that without this its generator would be in
        another state in the next frame than when the row runs alone.

        Args:
            log_weights: see `FrameSampling`.
            device: that the rows are on; None is a CPU.

        Raises:
            SelectorError: there is not one seed for each of `num_rows` rows.
        """
        if self.temperature == 0:
            return FrameSampling(log_weights=log_weights)
        on_device = device is not None and device.type != "cpu"
        if self.row_seeds is None:
            if not on_device:
                return FrameSampling(self.temperature, self.generator, None, log_weights)
            # Generators of a CPU are what callers have: they draw the seed of a frame.
            seed = int(torch.randint(_MASK, (), generator=self.generator))
            seeds = tuple(_mixed(seed, row) for row in range(rows.start, rows.stop))
            return FrameSampling(self.temperature, None, None, log_weights, seeds)
        if len(self.row_seeds) != num_rows:
            raise SelectorError(
                f"{len(self.row_seeds)} row_seeds for {num_rows} rows; give one per row"
            )
        seeds = tuple(_mixed(seed, frame) for seed in self.row_seeds[rows])
        if on_device:
            return FrameSampling(self.temperature, None, None, log_weights, seeds)
        generators = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
        return FrameSampling(self.temperature, None, generators, log_weights)


_FRAME_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


def _mixed(seed: int, number: int) -> int:
    return (seed + _FRAME_STEP * number) & _MASK


@dataclass(frozen=True)
class FrameSampling:
    """Options for sampling in one frame of B rows.

    Attributes:
        temperature, generator: as of `Sampling`.
        row_generators: one generator per row instead.
        log_weights: log of the factors on probabilities (inhibition of return), which do not
            depend on the temperature.
        seeds: one per row, for numbers that are drawn on the rows' own device (`DeviceNoise`)
            in place of generators.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None
    row_generators: tuple[torch.Generator, ...] | None = None
    log_weights: Float[Tensor, "B V"] | None = None
    seeds: tuple[int, ...] | None = None

    @property
    def is_static(self) -> bool:
        """Whether sampling is the same operations on the same tensors in every block."""
        return self.temperature == 0 or self.seeds is not None


def sample_block(
    logits: Float[Tensor, "B k V"], taken: Bool[Tensor, "B V"], sampling: FrameSampling
) -> Int[Tensor, "B k"]:
    """Sample one patch from each head in turn, never one that is taken.

    Args:
        logits: of the block's k heads over the V patches (EOS already left out).
        taken: patches gazed at in this frame so far; the block's are added in place.
    """
    if sampling.log_weights is not None:
        # Logits are divided by the temperature below; weights must not be.
        weights = sampling.log_weights * (sampling.temperature or 1)
        logits = logits + weights[:, None].to(logits)
    logits = logits.masked_fill(taken[:, None], float("-inf"))
    if sampling.temperature == 0 and logits.device.type == "cpu":
        # Heads mostly take different patches, and then need not be sampled one by one.
        ids = logits.argmax(-1)
        taken.scatter_(1, ids, True)
        ordered = ids.sort(-1).values
        if not bool((ordered[:, 1:] == ordered[:, :-1]).any()):  # no patch twice
            return ids
        # The block is sampled again below, head by head, so `taken` goes back to what it was
        # before the block: True where `logits` are masked.
        taken.scatter_(1, ids, False).logical_or_(logits[:, 0].isneginf())
    noise = _exponential_noise(logits, sampling)
    columns = []
    for head in range(logits.shape[1]):
        scores = logits[:, head]  # (B, V)
        if sampling.temperature == 0:
            chosen = scores.argmax(-1, keepdim=True)
        else:
            probabilities = (scores.float() / sampling.temperature).softmax(-1)
            if noise is None:
                chosen = torch.multinomial(probabilities, 1, generator=sampling.generator)
            else:
                chosen = (probabilities / noise[:, head]).argmax(-1, keepdim=True)
        columns.append(chosen)
        logits.scatter_(2, chosen[:, None].expand(-1, logits.shape[1], -1), float("-inf"))
    ids = torch.cat(columns, 1)
    taken.scatter_(1, ids, True)
    return ids


def likeliest_in_turn(
    logits: Float[Tensor, "B k V"], taken: Bool[Tensor, "B V"]
) -> list[Int[Tensor, "B 1"]]:
    """The likeliest patch of each head in turn, never one that is taken: `k` columns of ids.

    The same operations whatever the values, and none that waits for them.
    """
    logits = logits.masked_fill(taken[:, None], float("-inf"))
    columns: list[Tensor] = []
    for head in range(logits.shape[1]):
        columns.append(logits[:, head].argmax(-1, keepdim=True))
        later = logits[:, head + 1 :]
        if later.shape[1]:
            chosen = columns[-1][:, None].expand(-1, later.shape[1], -1)
            later.scatter_(2, chosen, float("-inf"))
    return columns


class DeviceNoise:
    """Random numbers that are drawn where the rows are, for all of them at once.

    Each is a hash (splitmix64) of its row's seed and its place in the frame, so a row's numbers do
    not depend on the other rows, and no generator has to be asked.

    Args:
        num_rows: B.
        device: of the rows.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        with torch.inference_mode(False):  # so that every mode may write them
            self.seeds = torch.zeros(num_rows, dtype=torch.long, device=device)
            self.drawn = torch.zeros(1, dtype=torch.long, device=device)
            self.temperature = torch.ones(1, device=device)

    def start(self, seeds: Int[Tensor, " b"], temperature: float) -> None:
        """Begin a frame with seeds of the first b rows."""
        self.seeds[: len(seeds)].copy_(seeds)
        self.drawn.zero_()
        self.temperature.fill_(temperature)

    def follow(self, other: "DeviceNoise", rows: Int[Tensor, " B"]) -> None:
        """Copy the state of another, for some of its rows."""
        self.seeds.copy_(other.seeds.index_select(0, rows))
        self.drawn.copy_(other.drawn)
        self.temperature.copy_(other.temperature)

    def perturbed(self, logits: Float[Tensor, "B k V"]) -> Float[Tensor, "B k V"]:
        """Logits of which the largest is a sample of their softmax at the temperature.

        Gumbel noise: the largest among the patches not yet taken is a sample of their softmax, too,
        so heads in turn sample without replacement.
        """
        count = logits[0].numel()
        places = self.drawn + torch.arange(1, count + 1, device=logits.device)
        bits = _hashed(self.seeds[:, None] + places * _signed(_FRAME_STEP))
        self.drawn.add_(count)
        # 24 bits, in the middle of their interval: neither 0 nor 1.
        uniform = ((bits >> 40 & 0xFFFFFF).to(logits.dtype) + 0.5) * 2.0**-24
        gumbel = -(-uniform.log()).log()
        return logits / self.temperature.to(logits.dtype) + gumbel.view_as(logits)


def _hashed(numbers: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """The finaliser of splitmix64, in integers of 64 bits with a sign."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ _shifted(numbers, shift)) * _signed(factor)
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Int[Tensor, "*N"], bits: int) -> Int[Tensor, "*N"]:
    """Shift to the right, zeros from the left."""
    return numbers >> bits & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The integer with a sign that has the same 64 bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _exponential_noise(
    logits: Float[Tensor, "B k V"], sampling: FrameSampling
) -> Float[Tensor, "B k V"] | None:
    """Exponential noise, each row's from its own generator.

    argmax(p / noise) is a sample of p: of exponential variables with rates p_i, the i-th is the
    least with probability p_i / sum p. Drawn on the CPU, so that all devices sample the same.
    """
    if sampling.row_generators is None:
        return None
    uniform = [
        torch.rand(logits.shape[1:], generator=generator) for generator in sampling.row_generators
    ]
    return -torch.stack(uniform).log().to(logits.device)
