"""What is measured, one file a task.

Every task has a `score` function on embeddings and texts, in NumPy, that returns the numbers for `results.json`
(shares between 0 and 1, with chance beside them) and the details that the report shows. Captions are scored by their
words, on the scales of their measures.
"""
