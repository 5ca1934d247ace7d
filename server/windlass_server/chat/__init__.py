"""The conversation behind every chat surface: what is asked (`ChatCall`), what comes (`ChatTurn`).

Chat completions, Responses and Anthropic's messages only translate to and from these.
"""
