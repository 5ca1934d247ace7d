"""Text in, text out: tokenizer, chat template, detokenizer, and the two ends of a request.

The front ends use `InputProcessor` before the engine and `OutputProcessor` behind it. No torch.
"""

from windlass.text.chat import encode_chat, render_chat
from windlass.text.detokenizer import IncrementalDetokenizer
from windlass.text.generation_config import load_generation_defaults
from windlass.text.input_processor import InputProcessor, ProcessedRequest
from windlass.text.output_processor import OutputProcessor
from windlass.text.prompt import Prompt, TextPrompt, TokensPrompt
from windlass.text.tokenizer import Tokenizer

__all__ = [
    "IncrementalDetokenizer",
    "InputProcessor",
    "OutputProcessor",
    "ProcessedRequest",
    "Prompt",
    "TextPrompt",
    "Tokenizer",
    "TokensPrompt",
    "encode_chat",
    "load_generation_defaults",
    "render_chat",
]
