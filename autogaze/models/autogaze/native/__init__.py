"""Attention of our own for CPUs, compiled where it runs; PyTorch's where that cannot be."""

from autogaze.models.autogaze.native.attention import (
    AttentionKernel,
    NativeKVCache,
    attention_kernel,
    key_value_cache,
)

__all__ = ["AttentionKernel", "NativeKVCache", "attention_kernel", "key_value_cache"]
