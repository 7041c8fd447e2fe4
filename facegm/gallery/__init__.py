"""Named people and their embeddings: enrolment, search, and what keeps them."""
