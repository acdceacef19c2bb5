"""Tasks by name: `pipeline` joins a model, its tokenizer and what a task makes of the model's numbers.

Names, parameters, defaults and the keys of what comes back are those of transformers 4.57.6. `registry` has a row a
task; `base` what they share; what an array means is in `runtime.tasks`.
"""
