"""The paper's classifiers: data sets, task, evaluation."""
