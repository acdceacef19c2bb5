"""How good a model's answers are: data read, predictions asked for, metrics reported.

`readers` gives examples of a file, `tasks` says what each task asks of a model and what becomes of its answers,
`evaluation` joins them to a report, and `metrics_*` count. `fairness` exchanges terms and asks again.
"""
