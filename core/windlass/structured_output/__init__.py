"""Structured output: what an output must be, checked, compiled and kept to.

`GrammarCompiler` belongs to the front ends: it checks a constraint in a process that may die of
it. The engine's executor makes matchers from what was checked (`matcher`).
"""
