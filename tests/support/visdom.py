"""Stands in for visdom, which adv-lib imports to draw charts that no test asks for, and which does not build."""
