"""The networks that are trained. Face networks need torch alone."""
