"""The KV cache that the native kernel writes and reads."""

from jaxtyping import Float, Shaped
from torch import Tensor

from autogaze.models.autogaze.cache import Feed, KVCache
from autogaze.models.autogaze.native.kernel import attention_kernel
from autogaze.models.autogaze.native.library import GROUP, Fed, Library


class NativeKVCache(KVCache):
    """A `KVCache` whose keys lie in groups of 16, channels outermost (see attention.c).

    Rows of any lengths are one call.
    """

    granule = GROUP

    def __init__(
        self,
        layers: int,
        rows: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        like: Tensor,
        *,
        library: Library,
    ) -> None:
        super().__init__(layers, rows, kv_heads, head_dim, capacity, like)
        self._library = library
        self._fed: tuple[Feed, Fed, Fed] | None = None

    def reserve(self, feed: Feed) -> None:
        super().reserve(feed)
        self._fed = None  # it knows the old capacity and lengths

    def advance(self, feed: Feed) -> None:
        super().advance(feed)
        self._fed = None

    def write(self, layer: int, feed: Feed, keys_values: Float[Tensor, "N KV D"]) -> None:
        self._library.store(self._told(feed)[0], self.held[layer], keys_values)

    def attend(
        self, layer: int, feed: Feed, queries: Float[Tensor, "N H D"]
    ) -> Float[Tensor, "N HD"]:
        return self._library.attend(self._told(feed)[0], self.held[layer], queries)

    def attend_last(
        self, layer: int, feed: Feed, queries: Float[Tensor, "R H D"]
    ) -> Float[Tensor, "R HD"]:
        return self._library.attend(self._told(feed)[1], self.held[layer], queries)

    def _told(self, feed: Feed) -> tuple[Fed, Fed]:
        """The new tokens of all rows, and each row's last one only."""
        if self._fed is None or self._fed[0] is not feed:
            held = [self.lengths[row] for row in feed.rows]
            before_last = [length + n - 1 for length, n in zip(held, feed.counts, strict=True)]
            ones = (1,) * len(held)
            self._fed = (
                feed,
                Fed(self._library, self.held[0], feed.rows, held, feed.counts),
                Fed(self._library, self.held[0], feed.rows, before_last, ones),
            )
        return self._fed[1:]


def key_value_cache(
    layers: int,
    rows: int,
    kv_heads: int,
    head_dim: int,
    capacity: int,
    like: Shaped[Tensor, "..."],
) -> KVCache:
    """A cache for the kernel there is: the native one, or PyTorch's."""
    library = attention_kernel(like, head_dim).library
    if library is None:
        return KVCache(layers, rows, kv_heads, head_dim, capacity, like)
    return NativeKVCache(layers, rows, kv_heads, head_dim, capacity, like, library=library)
