"""What a chat surface asks for, in words that no surface owns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from windlass.request import SamplingParams

ToolMode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools may be called.

    `allowed` are the names that may be called, None for all. `named` says that the client asked
    for this one tool, which has its own finish reason in OpenAI's API.
    """

    mode: ToolMode = "auto"
    allowed: tuple[str, ...] | None = None
    named: bool = False


@dataclass(slots=True, kw_only=True)
class ChatCall:
    """One turn that a client asks for.

    `messages` and `tools` are as templates see them: OpenAI's chat shape, arguments of earlier
    calls as objects, content as text. `sampling.structured_outputs` binds the content and came
    from the field `constraint_param`; `thinking_budget` bounds the reasoning (tokens), which is
    refused where it is not possible if the call `requires_budget`.
    `template_kwargs` are variables of the template; `chat_template` replaces the template for
    this call. `count_max` says that the client itself set `max_tokens`.
    """

    messages: list[dict[str, Any]]
    sampling: SamplingParams
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    constraint_param: str | None = None
    thinking_budget: int | None = None
    requires_budget: bool = False
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    priority: int = 0
    cache_salt: str = ""
    count_max: bool = False

    @property
    def shown_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of: none at all when it must not call any."""
        return [] if self.tool_choice.mode == "none" else self.tools

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call."""
        allowed = self.tool_choice.allowed
        return [
            tool
            for tool in self.shown_tools
            if allowed is None or tool["function"]["name"] in allowed
        ]
