"""The Responses API: from the body to a `ChatCall`, from a `ChatTurn` to items and events."""
