"""The paper's tables and figures, made again: what a cell is, how it is run, and how it is shown beside the paper's."""
