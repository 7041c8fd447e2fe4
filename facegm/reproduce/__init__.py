"""The paper's tables and figures made again: grids of runs, done side by side and put beside what was published."""
