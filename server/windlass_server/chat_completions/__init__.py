"""Chat completions: from the body to a `ChatCall`, and from a `ChatTurn` to answers and chunks."""
