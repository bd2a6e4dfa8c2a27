"""What a decoder's layer does between its products, when whole sequences are scored or trained on.

`LayerOps` are PyTorch's operators. On a GPU most of a training step was spent on these, not on products:
`TritonLayerOps` are one kernel each, forward and backward (`layer_triton_kernels.py`). `layer_ops` takes
them where they work; they are compared with PyTorch's operators first.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from autogaze.utils.kernels import failure_of, power_of_two


class LayerOps:
    """The operators, all of them differentiable."""

    def add_norm(
        self, x: Float[Tensor, "*N C"], added: Float[Tensor, "*N C"] | None, norm: nn.RMSNorm
    ) -> tuple[Float[Tensor, "*N C"], Float[Tensor, "*N C"]]:
        """`x` with what a layer adds to it, and this normed, as products take it."""
        x = x if added is None else x + added
        return x, norm(x)

    def heads(
        self,
        projected: Float[Tensor, "B N outputs"],
        widths: Sequence[int],
        num_rotated: int,
        head_dim: int,
        rotation: Complex[Tensor, "N half"],
    ) -> list[Float[Tensor, "B heads N D"]]:
        """Queries, keys or values by their heads, of which the first are rotated.

        Args:
            widths: outputs that belong to each of these.
            num_rotated: how many of these are rotated.
        """
        parts = [
            part.unflatten(-1, (-1, head_dim)).transpose(1, 2)
            for part in projected.split(list(widths), -1)
        ]
        rotated = [rotate_halves(part, rotation) for part in parts[:num_rotated]]
        return [*rotated, *parts[num_rotated:]]

    def gated(self, gate_up: Float[Tensor, "*N both"]) -> Float[Tensor, "*N inner"]:
        """SwiGLU's inner channels of its two products, which lie side by side."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


def rotate_halves(
    x: Float[Tensor, "B H N D"], rotation: Complex[Tensor, "... N half"]
) -> Float[Tensor, "B H N D"]:
    """Rotate channel i with channel i + D / 2, in float32 whatever the precision of `x`."""
    pairs = torch.complex(*x.float().chunk(2, dim=-1)) * rotation
    return torch.cat([pairs.real, pairs.imag], dim=-1).to(x.dtype)


BLOCK = 1024
"""Values, or pairs of them, that a program takes of what has no rows."""

ROWS = 4
"""Rows that a program norms at once."""

PROGRAMS = 1056
"""Programs that share the rows of a backward pass: eight for each multiprocessor of an H100."""

FUSED = {"enable_fp_fusion": True}
"""Triton warns where nothing is said."""

log = logging.getLogger(__name__)


class TritonLayerOps(LayerOps):
    """The operators as one kernel each. Tokens are float32; what products take is of their precision."""

    def add_norm(
        self, x: Float[Tensor, "*N C"], added: Float[Tensor, "*N C"] | None, norm: nn.RMSNorm
    ) -> tuple[Float[Tensor, "*N C"], Float[Tensor, "*N C"]]:
        eps = float(norm.eps or torch.finfo(x.dtype).eps)
        return _AddNorm.apply(x, added, norm.weight, eps, of_products(x))

    def heads(
        self,
        projected: Float[Tensor, "B N outputs"],
        widths: Sequence[int],
        num_rotated: int,
        head_dim: int,
        rotation: Complex[Tensor, "N half"],
    ) -> list[Float[Tensor, "B heads N D"]]:
        real = torch.view_as_real(rotation).contiguous()
        parts = _Heads.apply(projected, real, tuple(widths), num_rotated, head_dim)
        return [part.transpose(1, 2) for part in parts]

    def gated(self, gate_up: Float[Tensor, "*N both"]) -> Float[Tensor, "*N inner"]:
        return _Gated.apply(gate_up)


def of_products(x: Tensor) -> torch.dtype:
    """The precision of products with `x`: that of autocast where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        from autogaze.models.autogaze import layer_triton_kernels as kernels

        x, width = x.contiguous(), x.shape[-1]
        rows = x.numel() // width
        total = x if added is None else torch.empty_like(x)
        normed = torch.empty_like(x, dtype=dtype)
        with torch.cuda.device_of(x):  # where Triton launches is the current device
            kernels.add_norm[(-(-rows // ROWS),)](
                *(x, x if added is None else added.contiguous(), weight, total, normed, rows),
                **{"HAS_ADDED": added is not None, "EPS": eps, "WIDTH": width},
                **{"BLOCK": power_of_two(width, 16), "ROWS": ROWS},
                **FUSED,
            )
        ctx.save_for_backward(total, weight)
        ctx.eps, ctx.added = eps, None if added is None else added.dtype
        ctx.set_materialize_grads(False)
        if added is None:
            total = total.view_as(total)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total_grad: Tensor | None, normed_grad: Tensor | None) -> Any:
        from autogaze.models.autogaze import layer_triton_kernels as kernels

        total, weight = ctx.saved_tensors
        if normed_grad is None:
            normed_grad = torch.zeros_like(total)
        width = total.shape[-1]
        rows = total.numel() // width
        programs = max(1, min(PROGRAMS, -(-rows // ROWS)))
        x_grad = torch.empty_like(total)
        added_grad = None if ctx.added is None else torch.empty_like(total, dtype=ctx.added)
        weight_grads = torch.empty(programs, width, device=total.device)
        with torch.cuda.device_of(total):
            kernels.add_norm_backward[(programs,)](
                *(total, weight, total if total_grad is None else total_grad.contiguous()),
                *(normed_grad.contiguous(), x_grad, x_grad if added_grad is None else added_grad),
                *(weight_grads, rows),
                **{"HAS_TOTAL": total_grad is not None, "HAS_ADDED": added_grad is not None},
                **{"EPS": ctx.eps, "WIDTH": width, "BLOCK": power_of_two(width, 16), "ROWS": ROWS},
                **FUSED,
            )
        return x_grad, added_grad, weight_grads.sum(0).to(weight.dtype), None, None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, rotation: Tensor, widths: tuple[int, ...], num_rotated: int,
        head_dim: int,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        B, N, _ = projected.shape
        ctx.save_for_backward(rotation)
        ctx.shape, ctx.widths, ctx.num_rotated = projected.shape, widths, num_rotated
        parts = []
        for number, part in enumerate(projected.contiguous().split(widths, -1)):
            source = part.unflatten(-1, (-1, head_dim))
            turned = part.new_empty(B, N, *source.shape[2:])
            _rotate(source, rotation, turned.flatten(2), int(number < num_rotated))
            parts.append(turned)
        return tuple(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (rotation,) = ctx.saved_tensors
        found = grads[0].new_empty(ctx.shape)
        parts = found.split(ctx.widths, -1)
        for number, (grad, part) in enumerate(zip(grads, parts, strict=True)):
            source = grad if grad.stride(-1) == 1 else grad.contiguous()
            _rotate(source, rotation, part, -int(number < ctx.num_rotated))
        return found, None, None, None, None


def _rotate(
    source: Float[Tensor, "B N heads D"],
    rotation: Float[Tensor, "N half 2"],
    turned: Float[Tensor, "B N outputs"],
    sign: int,
) -> None:
    """Write `source`, rotated, to `turned`, whose tokens may lie apart."""
    from autogaze.models.autogaze import layer_triton_kernels as kernels

    B, N, heads, D = source.shape
    with torch.cuda.device_of(source):
        kernels.rotate[-(-N * heads * (D // 2) // BLOCK), B](
            *(source, *source.stride()[:3], rotation, turned, turned.stride(1), N),
            **{"SIGN": sign, "HEADS": heads, "HEAD": D, "BLOCK": BLOCK},
            **FUSED,
        )


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        from autogaze.models.autogaze import layer_triton_kernels as kernels

        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        inner = gate_up.shape[-1] // 2
        found = gate_up.new_empty(*gate_up.shape[:-1], inner)
        with torch.cuda.device_of(gate_up):
            kernels.gated[(max(1, -(-found.numel() // BLOCK)),)](
                gate_up, found, found.numel(), INNER=inner, BLOCK=BLOCK, **FUSED
            )
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from autogaze.models.autogaze import layer_triton_kernels as kernels

        (gate_up,) = ctx.saved_tensors
        found = torch.empty_like(gate_up)
        with torch.cuda.device_of(gate_up):
            kernels.gated_backward[(max(1, -(-grad.numel() // BLOCK)),)](
                *(gate_up, grad.contiguous(), found, grad.numel()),
                **{"INNER": gate_up.shape[-1] // 2, "BLOCK": BLOCK},
                **FUSED,
            )
        return found


_FAILURES: dict[Hashable, str] = {}
"""Why kernels cannot be used, by what they do, device and precision; empty where they can."""


def layer_ops(x: Float[Tensor, "B N C"], head_dim: int, inner: int) -> LayerOps:
    """The fastest operators for these tokens: Triton's on a GPU where they work, else PyTorch's."""
    width, device, dtype = x.shape[-1], x.device, of_products(x)
    if x.dtype != torch.float32 or head_dim % 2:
        return LayerOps()
    usable = is_usable(
        f"layers of {width} channels, {inner} inside, heads of {head_dim}",
        *(device, dtype, lambda: _difference(device, dtype, width, head_dim, inner)),
    )
    return TritonLayerOps() if usable else LayerOps()


def is_usable(
    what: str, device: torch.device, dtype: torch.dtype, difference: Callable[[], float]
) -> bool:
    """Whether kernels can be used on a device; if not, a warning says once why.

    Args:
        difference: measures by how much their results differ from PyTorch's, at first use.
    """
    if device.type != "cuda":
        return False
    key = (what, device, dtype)
    if key not in _FAILURES:
        _FAILURES[key] = why = failure_of(lambda: _failure(difference(), dtype))
        if why:
            log.warning("%s run by PyTorch's operators, which takes longer: %s", what, why)
    return not _FAILURES[key]


def _failure(difference: float, dtype: torch.dtype) -> str:
    if difference <= max(1e-4, 4 * torch.finfo(dtype).eps):
        return ""
    return f"results or gradients differ from PyTorch's by {difference:.2g}"


@torch.enable_grad()
def _difference(
    device: torch.device, dtype: torch.dtype, width: int, head_dim: int, inner: int
) -> float:
    """The largest difference of results and gradients from float32's, as a share of the largest."""
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(0)
        B, N = 2, 37

        def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            values = torch.randn(*shape, generator=generator).to(device, dtype)
            return values.requires_grad_()

        norm = nn.RMSNorm(width, eps=1e-5, device=device)
        x, added = drawn(B, N, width), drawn(B, N, width, dtype=dtype)
        angles = torch.randn(N, head_dim // 2, generator=generator)
        rotation = torch.polar(torch.ones_like(angles), angles).to(device)
        qkv = drawn(B, N, 5 * head_dim, dtype=dtype)
        widths = [3 * head_dim, head_dim, head_dim]
        both = drawn(B, N, 2 * inner, dtype=dtype)
        leaves = [x, added, norm.weight, qkv, both]

        def results(ops: LayerOps) -> Iterator[Tensor]:
            yield from ops.add_norm(x, added, norm)
            yield from ops.add_norm(x, None, norm)
            yield from ops.heads(qkv, widths, 2, head_dim, rotation)
            yield ops.gated(both)

        def all_of(ops: LayerOps) -> list[Tensor]:
            made = [one.float() for one in results(ops)]
            weights = torch.Generator().manual_seed(1)
            factors = [torch.randn(one.shape, generator=weights).to(device) for one in made]
            loss = sum((one * factor).sum() for one, factor in zip(made, factors, strict=True))
            gradients = torch.autograd.grad(loss, leaves)  # type: ignore[arg-type]
            return [one.detach() for one in (*made, *gradients)]

        pairs = zip(all_of(LayerOps()), all_of(TritonLayerOps()), strict=True)
        return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
