"""The gaze decoder against a cache of fixed shape, as `static_shapes` feeds it.

One frame launches hundreds of operators, each too small to keep a GPU busy, so their number counts
here: tables in place of sines, one mask for all layers, norms that are one kernel.
"""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.models.autogaze.decoder import FusedDecoder, FusedLayer, rotations


class StaticDecoder:
    """A fused decoder with keys and values of R rows, `capacity` slots for each.

    Args:
        fused: the weights.
        num_rows: R.
        capacity: slots per row; one more takes the padding, and no window reaches it.
        compiled: whether `feed` is written for `torch.compile`.

    Attributes:
        cache: (layers, R, 2 * kv heads, capacity + 1, D), the keys' heads before the values'.
        has_windows: whether `feed` depends on its `window`.
    """

    has_windows = True

    def __init__(
        self, fused: FusedDecoder, num_rows: int, capacity: int, *, compiled: bool
    ) -> None:
        config, device = fused.config, fused.device
        self.fused, self.compiled = fused, compiled
        # A block may be given positions before the first token.
        self.earliest = config.num_multi_token_pred
        layers, heads = config.num_hidden_layers, 2 * config.num_key_value_heads
        with torch.inference_mode(False):  # so that every mode may write them
            self.cache = torch.zeros(
                *(layers, num_rows, heads, capacity + 1, config.head_dim),
                dtype=fused.dtype,
                device=device,
            )
            self.seen = torch.zeros((), dtype=fused.dtype, device=device)
            # Finite, so that a token which sees nothing (padding) does not become NaN.
            self.unseen = torch.full_like(self.seen, torch.finfo(fused.dtype).min)
            # RMSNorm over sqrt(C) is what the fused weights are made for.
            width = config.hidden_size
            self.unit = torch.full((width,), width**-0.5, dtype=fused.exact, device=device)
        self._make_tables()

    def _make_tables(self) -> None:
        device = self.fused.device
        with torch.inference_mode(False), torch.no_grad():
            positions = torch.arange(-self.earliest, self.capacity + 1, device=device)
            self.rotations = rotations(positions, self.fused.frequencies)  # (positions, D / 2)
            self.slots = torch.arange(self.capacity, device=device)

    @property
    def capacity(self) -> int:
        return self.cache.shape[3] - 1

    def grow(self, capacity: int) -> None:
        """Make room for more tokens per row, in new tensors."""
        with torch.inference_mode(False), torch.no_grad():
            self.cache = F.pad(self.cache, (0, 0, 0, capacity - self.capacity))
        self._make_tables()

    def window(self, length: int) -> Float[Tensor, "layers R KV length D"]:
        """The first slots of all rows."""
        return self.cache[:, :, :, :length]

    def feed(
        self,
        tokens: Float[Tensor, "R n C"],
        places: Int[Tensor, "R n"],
        positions: Int[Tensor, "R n"],
        window: int,
    ) -> Float[Tensor, "R C"]:
        """Run new tokens through the decoder; the final hidden state of each row's last one.

        Args:
            places: slots of the cache that they are written to; `capacity` for padding.
            positions: rotary ones, from -K to `capacity`.
            window: slots that are attended to, those behind a token's own place masked.
        """
        seen = self.slots[:window] <= places[..., None]  # (R, n, window)
        mask = torch.where(seen, self.seen, self.unseen)[:, None]  # made once for all layers
        rotation = self.rotations.index_select(0, (positions + self.earliest).view(-1))
        x = tokens.flatten(0, 1)  # (R * n, C)
        *layers, last_layer = enumerate(self.fused.layers)
        for index, layer in layers:
            queries = self._write(index, layer, x, rotation, places)
            x = self._finish(layer, x, self._attend(index, queries, mask))
        # Of the last layer only each row's last token is read.
        index, layer = last_layer
        queries = self._write(index, layer, x, rotation, places)[:, :, -1:]
        attended = self._attend(index, queries, mask[:, :, -1:])
        return self.fused.norm(self._finish(layer, x.unflatten(0, places.shape)[:, -1], attended))

    def _write(
        self,
        index: int,
        layer: FusedLayer,
        x: Float[Tensor, "N C"],
        rotation: Complex[Tensor, "N half"],
        places: Int[Tensor, "R n"],
    ) -> Float[Tensor, "R H n D"]:
        """Queries of new tokens, whose keys and values are written to a layer of the cache."""
        qkv = torch.mm(self._normed(x), layer.qkv)
        qkv = self._rotated(qkv, layer.num_queries + layer.num_keys, rotation)
        heads = qkv.view(*places.shape, -1, layer.head_dim).transpose(1, 2)  # (R, H + KV, n, D)
        queries, new = heads.tensor_split((layer.num_queries // layer.head_dim,), 1)
        self.cache[index].scatter_(2, places[:, None, :, None].expand_as(new), new)
        return queries

    def _rotated(
        self, qkv: Float[Tensor, "N channels"], count: int, rotation: Complex[Tensor, "N half"]
    ) -> Float[Tensor, "N channels"]:
        """The first `count` channels rotated in adjacent pairs, in float32 whatever the precision."""
        turned = qkv[:, :count].float().unflatten(1, (-1, rotation.shape[1], 2))
        if self.compiled:  # compilers know no complex numbers
            real, imaginary = turned.unbind(-1)
            cos, sin = torch.view_as_real(rotation)[:, None].unbind(-1)
            parts = [real * cos - imaginary * sin, real * sin + imaginary * cos]
            done = torch.stack(parts, -1).flatten(1).to(qkv.dtype)
            return torch.cat([done, qkv[:, count:]], 1)
        pairs = torch.view_as_complex(turned)
        pairs *= rotation[:, None]
        if qkv.dtype != torch.float32:  # otherwise `pairs` is a view of it
            qkv[:, :count].copy_(torch.view_as_real(pairs).flatten(1))
        return qkv

    def _attend(
        self, index: int, queries: Float[Tensor, "R H n D"], mask: Float[Tensor, "R 1 n window"]
    ) -> Float[Tensor, "N HD"]:
        keys, values = self.cache[index, :, :, : mask.shape[-1]].chunk(2, dim=1)
        grouped = queries.shape[1] != keys.shape[1]
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=1.0, enable_gqa=grouped
        )
        return attended.transpose(1, 2).flatten(2).flatten(0, 1)

    def _finish(
        self, layer: FusedLayer, x: Float[Tensor, "N C"], attended: Float[Tensor, "N HD"]
    ) -> Float[Tensor, "N C"]:
        """Output projection and SwiGLU, each added to `x`."""
        x = _add_product(x, attended, layer.out)
        gate, up = torch.mm(self._normed(x), layer.gate_up).chunk(2, dim=-1)
        return _add_product(x, F.silu(gate) * up, layer.down)

    def _normed(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """As `FusedLayer._normed`, in one kernel."""
        eps = self.fused.config.rms_norm_eps
        return F.rms_norm(x, self.unit.shape, self.unit, eps).to(self.fused.dtype)


def _add_product(
    x: Float[Tensor, "N C"], factor: Float[Tensor, "N K"], weight: Float[Tensor, "K C"]
) -> Float[Tensor, "N C"]:
    """X + factor @ weight, in one kernel where both have the precision of `x`."""
    if x.dtype == weight.dtype:
        return torch.addmm(x, factor, weight)
    return x + torch.mm(factor, weight)
