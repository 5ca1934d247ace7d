"""Anthropic's messages: from the body to a `ChatCall`, and from a `ChatTurn` to blocks."""
