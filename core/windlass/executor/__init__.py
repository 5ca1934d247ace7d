"""The executor: the one model runner for every torch device."""
