"""Controlled comparisons: runs that differ in one thing each, with the same sweep, seeds, data order and checkpoints.

  study.py     what is compared: tasks, arms, learning rates, seeds
  task.py      a data set cut into training, validation and test, its X-encoder's tokens computed once
  sides.py     the two ways to learn, predicting an embedding and spelling words out, behind one interface
  run.py       one run, to its end, with measurements on the way
  sweep.py     all runs of a study, in order; what is finished stays finished
  cost.py      what either side costs: arithmetic, memory of parameters, time of every piece
  results.py   means, intervals, and the file of them all
"""
