"""The wire format, named as OpenAI names it.

Requests are pydantic models (one clean sentence per fault). Responses are msgspec structs: a key
that is `UNSET` is absent, a key that is None is null, which OpenAI's schema tells apart.
"""
