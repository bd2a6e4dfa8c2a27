"""Published import path of the decoder, which is not transformers' Llama here."""

from autogaze.errors import refuse_names

_DECODER = (
    "the decoder is autogaze.models.autogaze.decoder.GazeDecoder, whose parameters have the same names; "
    "AutoGaze gazes with it, and it has neither transformers' forward nor its generate"
)

__getattr__ = refuse_names(
    __name__, {"CausalLMOutputWithPast": _DECODER, "LlamaForCausalLM_MultiTokenPred": _DECODER}
)
