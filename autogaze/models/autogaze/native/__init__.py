"""Attention of our own for CPUs, compiled where it runs; PyTorch's where that cannot be."""

from autogaze.models.autogaze.native.cache import NativeKVCache, key_value_cache
from autogaze.models.autogaze.native.kernel import AttentionKernel, attention_kernel

__all__ = ["AttentionKernel", "NativeKVCache", "attention_kernel", "key_value_cache"]
