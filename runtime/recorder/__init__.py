"""The recorder: the forward runs once with symbols, and a program is written. A module for each kind of op."""
