"""What of a model to cut: statistics of a calibration text, and a function for each published method.

`calibrate` collects the statistics with our own forward pass; `masks`, `sparsegpt`, `depth` and `structured` hold the
methods; `methods` puts a name to each and turns what it finds into a plan or into new weights.
"""
