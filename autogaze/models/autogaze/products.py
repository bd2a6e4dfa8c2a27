"""Products with weights that stay the same over hundreds of calls.

Gazing multiplies few rows by the same matrices again and again, and a general matrix
product spends much of that time rearranging the matrix. oneDNN can be given it
rearranged once. Where oneDNN is not there, in other precisions, on a GPU and where
gradients are wanted, a plain product gives the same to rounding.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


class Product(ABC):
    """x @ weight.T, and the same added to something."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "N in"]) -> Float[Tensor, "N out"]:
        """X @ weight.T."""

    @abstractmethod
    def added_to(
        self, residual: Float[Tensor, "N out"], x: Float[Tensor, "N in"]
    ) -> Float[Tensor, "N out"]:
        """Residual + x @ weight.T."""


@dataclass(frozen=True)
class PlainProduct(Product):
    """By `torch.mm`; `weight` is (in, out), transposed once."""

    weight: Float[Tensor, "in out"]

    def __call__(self, x: Float[Tensor, "N in"]) -> Float[Tensor, "N out"]:
        return torch.mm(x, self.weight)

    def added_to(
        self, residual: Float[Tensor, "N out"], x: Float[Tensor, "N in"]
    ) -> Float[Tensor, "N out"]:
        if torch.is_autocast_enabled(x.device.type):
            # `addmm` would round the residual too, and with it all that later blocks add to it.
            return residual + torch.mm(x, self.weight)
        return torch.addmm(residual, x, self.weight)


@dataclass(frozen=True)
class PackedProduct(Product):
    """By oneDNN, with the weight in the layout that it likes best (float32, CPU)."""

    packed: Tensor

    def __call__(self, x: Float[Tensor, "N in"]) -> Float[Tensor, "N out"]:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")

    def added_to(
        self, residual: Float[Tensor, "N out"], x: Float[Tensor, "N in"]
    ) -> Float[Tensor, "N out"]:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, None, "add")


def product(weight: Float[Tensor, "out in"], *, fixed: bool) -> Product:
    """The product with `weight`; `fixed` where neither it nor a gradient will change."""
    if (
        fixed
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    ):
        return PackedProduct(torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))
    return PlainProduct(weight.mT.contiguous())
