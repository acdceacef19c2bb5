"""Long work on files: records in, a result for each out, in order, to be taken up again after a kill."""
