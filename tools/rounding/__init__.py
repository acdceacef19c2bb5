"""Rounding matrices by what a text shows of their inputs: `miaotui quantize --method`."""
