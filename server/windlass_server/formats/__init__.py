"""What models write: reasoning, text and tool calls in the syntax that each was trained on."""
